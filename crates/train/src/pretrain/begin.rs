//! How a run begins: the data is opened, the ranks agree, the memory is counted, and the last checkpoint read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use yushan_abi::TokenId;
use yushan_collective::Collective;
use yushan_model::engine::available_memory;
use yushan_model::tokenizer::Tokenizer;
use yushan_tensor::Pool;

use super::spikes::Spikes;
use super::{CORPUS, Job, SHARDS, Trainer, event, memory, tokenizer};
use crate::checkpoint;
use crate::corpus::{self, Corpus};
use crate::decoder::{Decoder, layout};
use crate::digest::{hex, sha256};
use crate::optimizer::Optimizer;
use crate::order::{Cut, Options, Order};
use crate::recipe::Settings;
use crate::report::{
    DataFile, Energy, Event, EventKind, Kept, Line, Price, RunFile, Writer, environment,
};
use crate::shard::{Check, Shards, TRAIN};
use crate::{Error, Result};

/// What a run reads: the split it trains on, those that were held out, the tokenizer.
pub struct Data {
    /// Splits that were held out, by their names.
    pub(super) hold_outs: Vec<(String, Shards)>,
    pub(super) tokenizer: Tokenizer,
    /// Stands before every document.
    pub(super) bos: TokenId,
    /// UTF-8 bytes of each token.
    pub(super) token_bytes: Vec<u32>,
    /// UTF-8 bytes of a token of the training texts, on average.
    pub(super) bytes_per_token: f64,
    /// `tokenizer.json`, as it is.
    pub(super) tokenizer_json: Vec<u8>,
    /// SHA-256 of all of it, hexadecimal.
    pub(super) hash: String,
    files: Vec<DataFile>,
}

impl Data {
    /// Opens a folder of shards: what is trained on, and the rest.
    ///
    /// # Errors
    /// A folder that is none, or is damaged; a tokenizer that does not fit.
    pub fn open(settings: &Settings) -> Result<(Shards, Data)> {
        let folder = &settings.data;
        let train = Shards::open(&folder.join(SHARDS), TRAIN, Check::Lazily)?;
        let tokenizer = tokenizer(folder)?;
        let vocabulary = settings.shape.vocabulary;
        if train.vocabulary() > vocabulary || tokenizer.vocabulary_size() > vocabulary {
            let detail = format!(
                "{} ids in the shards, {} in the tokenizer, {vocabulary} in the model; build the shards again",
                train.vocabulary(),
                tokenizer.vocabulary_size()
            );
            return Err(Error::bad(folder.display().to_string(), detail));
        }
        let roles = tokenizer.roles();
        let Some(bos) = roles.bos.or(roles.eos) else {
            let detail = "it has no token that begins a text (bos)";
            return Err(Error::bad(format!("tokenizer of {}", folder.display()), detail));
        };
        let mut hold_outs = Vec::new();
        for split in &train.manifest().splits {
            if split.name != TRAIN {
                let shards = Shards::open(&folder.join(SHARDS), &split.name, Check::Lazily)?;
                hold_outs.push((split.name.clone(), shards));
            }
        }
        let ids = 0..tokenizer.vocabulary_size() as TokenId;
        let bytes = |id| match tokenizer.is_special(id) {
            true => 0,
            false => tokenizer.token_bytes(id).len() as u32,
        };
        let files = files(&train, &licences(folder));
        let (tokens, text) = files.first().map_or((0, 0), |train| {
            (train.tokens.unwrap_or_default(), train.bytes.unwrap_or_default())
        });
        let data = Data {
            token_bytes: ids.map(bytes).collect(),
            bytes_per_token: text as f64 / tokens.max(1) as f64,
            tokenizer_json: super::tokenizer_json(folder)?,
            hash: hex(&train.hash()),
            hold_outs,
            tokenizer,
            bos,
            files,
        };
        Ok((train, data))
    }
}

/// Source and licence, as the cleaned documents beside the shards say; nothing where these are gone.
fn licences(folder: &Path) -> Vec<(String, String)> {
    let counts = Corpus::open(&folder.join(CORPUS)).and_then(|corpus| corpus.counts());
    counts.unwrap_or_default().into_iter().map(|one| (one.source, one.licence)).collect()
}

/// The splits for the record.
fn files(train: &Shards, licences: &[(String, String)]) -> Vec<DataFile> {
    let manifest = train.manifest();
    let tokenizer = DataFile {
        name: "tokenizer".into(),
        role: "tokenizer".into(),
        sha256: manifest.tokenizer.clone(),
        ..DataFile::default()
    };
    let licence = |split: &str| {
        let of = |source: &str| split == TRAIN || split == corpus::holdout(source);
        let named: BTreeSet<&str> =
            licences.iter().filter(|(source, _)| of(source)).map(|(_, name)| &**name).collect();
        (!named.is_empty()).then(|| named.into_iter().collect::<Vec<_>>().join(", "))
    };
    let split = |split: &crate::shard::Split| {
        let (_, tokens, bytes) = split.totals();
        let hashes: String = split.files.iter().map(|file| file.sha256.as_str()).collect();
        DataFile {
            name: split.name.clone(),
            role: if split.name == TRAIN { "train" } else { "hold-out" }.into(),
            sha256: hex(&sha256(hashes.as_bytes())),
            tokens: Some(tokens),
            bytes: Some(bytes),
            licence: licence(&split.name),
        }
    };
    let mut splits: Vec<_> = manifest.splits.iter().map(split).collect();
    splits.sort_by_key(|file| file.role != "train");
    splits.push(tokenizer);
    splits
}

impl<'a> Trainer<'a> {
    /// Opens everything, and stands at the first step or after the last checkpoint.
    pub(super) fn begin(job: &'a Job<'a>, ranks: &'a mut dyn Collective) -> Result<Trainer<'a>> {
        let settings = job.settings;
        let (rank, of) = (ranks.rank(), ranks.ranks());
        let (train, data) = Data::open(settings)?;
        let train = Arc::new(train);
        agree(job, &data, ranks)?;
        if settings.rows() < of {
            let detail = format!(
                "{of} ranks for the {} rows of a step; raise train.batch_tokens to at least {}",
                settings.rows(),
                of * settings.shape.context
            );
            return Err(Error::bad("ranks", detail));
        }
        if let Some(available) = available_memory() {
            memory::check(settings, of, job.threads, available)?;
        }
        let options = Options {
            context: settings.shape.context,
            seed: settings.seed,
            bos: Some(data.bos),
            cut: Cut::default(),
        };
        let mut decoder = Decoder::new(settings.shape, settings.seed);
        decoder.set_keep(settings.activations.keep());
        let tensors = layout(&settings.shape);
        let optimizer = Optimizer::new(&tensors, settings.optimizer, rank, of)?;
        let mut trainer = Trainer {
            job,
            ranks,
            pool: Pool::new(job.threads),
            data,
            decoder,
            optimizer,
            order: Order::new(train.clone(), options)?,
            train,
            options,
            spikes: Spikes::default(),
            step: 0,
            rollbacks: 0,
            saved: None,
            log: None,
            before: 0.0,
            started: Instant::now(),
            energy: None,
            evaluation: None,
            inputs: Vec::new(),
            targets: Vec::new(),
        };
        trainer.open_log()?;
        Ok(trainer)
    }

    /// Where checkpoints lie.
    pub(super) fn checkpoints(&self) -> PathBuf {
        self.job.folder.join("checkpoints")
    }

    /// A new log, or the one that is there, cut where the last checkpoint is.
    fn open_log(&mut self) -> Result<()> {
        let found = match self.job.resume {
            true => checkpoint::load_latest(&self.checkpoints())?,
            false => None,
        };
        let mut events = Vec::new();
        if let Some(loaded) = found {
            for one in &loaded.rejected {
                let detail = format!("{}: {}", one.path.display(), one.reason);
                events.push(Event::new(EventKind::FellBack, detail));
            }
            self.restore(&loaded.snapshot, true)?;
            self.saved = Some(loaded.path);
            events.push(Event::new(EventKind::Resumed, format!("after step {}", self.step)));
        } else {
            events.push(Event::new(EventKind::Started, ""));
        }
        // Every rank has read what it needs before rank 0 changes anything.
        self.ranks.barrier()?;
        if self.ranks.rank() != 0 {
            return Ok(());
        }
        let folder = self.job.folder;
        std::fs::create_dir_all(folder).map_err(|e| Error::io("making", folder, e))?;
        let (log, kept) = match self.job.resume {
            true => Writer::resume(folder, self.step)?,
            false => (Writer::create(folder)?, Kept::default()),
        };
        self.log = Some(log);
        self.before = kept.last.as_ref().and_then(|line| line.seconds).unwrap_or_default();
        events.extend(self.count_energy(kept.last.as_ref()));
        if self.step == 0 {
            self.run_file().write(folder)?;
        }
        for one in events {
            self.write(event(self.step, one), &mut super::Unwatched)?;
        }
        Ok(())
    }

    /// Counts joules after those of the last step that was kept, or says why not, once.
    fn count_energy(&mut self, last: Option<&Line>) -> Option<Event> {
        // A sum of which a part is missing is not the run's; why it is, was said then.
        let before = last.map_or(Some(0.0), |line| line.joules)?;
        match Energy::under(self.job.energy) {
            Ok(energy) => self.energy = Some(energy.after(before)),
            Err(why) => return Some(Event::new(EventKind::EnergyNotCounted, why)),
        }
        None
    }

    /// What the run is, written once.
    fn run_file(&self) -> RunFile {
        let (job, settings) = (self.job, self.job.settings);
        let shape = &settings.shape;
        let matrices = if shape.tied { 1 } else { 2 };
        RunFile {
            name: settings.name.clone(),
            recipe: recipe(settings),
            commands: job.commands.clone(),
            shape: serde_json::to_value(shape).unwrap_or_default(),
            parameters: Some(shape.parameters() as u64),
            embedding_parameters: Some((matrices * shape.vocabulary * shape.dim) as u64),
            steps: Some(settings.schedule.steps),
            batch_tokens: Some(settings.batch_tokens as u64),
            seed: Some(settings.seed),
            ranks: Some(self.ranks.ranks() as u64),
            environment: environment(job.threads, Some(job.peak)),
            data: self.data.files.clone(),
            code: job.code.clone(),
            started: job.started.clone(),
            price: (settings.per_hour > 0.0).then(|| Price {
                per_hour: settings.per_hour,
                currency: settings.currency.clone(),
            }),
            predicted: job.predicted.clone(),
        }
    }
}

/// Settings as the run file holds them.
pub(super) fn recipe(settings: &Settings) -> String {
    toml::to_string(settings).unwrap_or_default()
}

/// Ranks that would train different things refuse to begin.
fn agree(job: &Job<'_>, data: &Data, ranks: &mut dyn Collective) -> Result<()> {
    let json = serde_json::to_vec(job.settings)
        .map_err(|error| Error::bad("recipe", error.to_string()))?;
    ranks.agree("the recipe", &sha256(&json))?;
    ranks.agree("the data", data.hash.as_bytes())?;
    ranks.agree("--resume", &[u8::from(job.resume)])?;
    Ok(())
}
