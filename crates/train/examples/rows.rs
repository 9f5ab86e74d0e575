//! `rows RUN DATA START [DONE]`: what another implementation has to be given to repeat a run of `yushan train
//! pretrain`: its first weights and its rows. `bench/pretrain-vs-pytorch` reads it.
//!
//! RUN holds the run's `run.json`, DATA is the folder of `yushan data build`. START is written unless it is there:
//! the model before the first step, in Hugging Face's layout, f32. Then the rows of every step after the first DONE
//! go to stdout in the order of the run: `(rows, context + 1)` ids a step, u32, little-endian; the first `context` ids
//! of a row are its inputs, the last its targets.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};

use yushan_train::checkpoint::{self, Ends, Snapshot, State, Type};
use yushan_train::decoder::Decoder;
use yushan_train::order::{Cut, Options, Order};
use yushan_train::pretrain::{SHARDS, tokenizer};
use yushan_train::recipe::Settings;
use yushan_train::report::RunFile;
use yushan_train::shard::{Check, Shards, TRAIN};
use yushan_train::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let usage = || Error::bad("rows", "expected RUN DATA START [DONE]");
    let [run, data, start, rest @ ..] = arguments.as_slice() else { return Err(usage()) };
    let done = match rest {
        [] => Some(0),
        [done] => done.to_str().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let done = done.ok_or_else(usage)?;
    let settings: Settings = toml::from_str(&RunFile::read(run)?.recipe).map_err(|error| {
        Error::bad(run.display().to_string(), format!("run.json holds no settled recipe: {error}"))
    })?;
    let tokenizer = tokenizer(data)?;
    let roles = tokenizer.roles();
    let bos = roles.bos.or(roles.eos).ok_or_else(|| Error::bad("tokenizer", "it has no bos"))?;
    let options = Options {
        context: settings.shape.context,
        seed: settings.seed,
        bos: Some(bos),
        cut: Cut::default(),
    };
    let shards = Shards::open(&data.join(SHARDS), TRAIN, Check::Now)?;
    let mut order = Order::new(shards, options)?;
    if !start.exists() {
        export(&settings, data, start, bos, &order)?;
    }
    let mut out = std::io::stdout().lock();
    for step in done..settings.schedule.steps {
        let ids = order.rows(step, settings.rows(), 0, 1)?.ids;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(|error| Error::io("writing rows to", "stdout", error))?;
    }
    Ok(())
}

/// The model before the first step.
fn export(
    settings: &Settings,
    data: &Path,
    start: &Path,
    bos: u32,
    order: &Order<Shards>,
) -> Result<()> {
    let path = data.join("tokenizer.json");
    let tokenizer = std::fs::read(&path).map_err(|error| Error::io("reading", &path, error))?;
    let decoder = Decoder::new(settings.shape, settings.seed);
    let snapshot = Snapshot {
        shape: settings.shape,
        params: Cow::Borrowed(decoder.params()),
        optimizer: Vec::new(),
        tokenizer: Cow::Owned(tokenizer),
        ends: Ends { bos, eos: bos },
        state: State {
            step: 0,
            cursor: order.cursor().clone(),
            updates: 0,
            rng: Vec::new(),
            schedule: serde_json::Value::Null,
            spikes: serde_json::Value::Null,
            recipe: String::new(),
            metadata: serde_json::Value::Null,
        },
    };
    checkpoint::export(start, &snapshot, Type::F32)
}
