//! `plan`: what a training run takes before it starts, and how large a model is worth its budget.
//!
//! The arithmetic is the library's (`yushan_train::plan`); every assumption that went in is printed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use yushan_train::decoder::Shape;
use yushan_train::plan::dial::{Defaults, Overrides};
use yushan_train::plan::sizes::Convention;
use yushan_train::plan::{choice, cost, device, dial, optimum};
use yushan_train::pretrain;
use yushan_train::scaling::report::{Options, Report, of_records};
use yushan_train::scaling::{Law, runner};
use yushan_train::shard::{Check, Documents as _, Shards, TRAIN};

use crate::exit::{BadFile, BadUsage};
use crate::{flags, scale, train};

/// Plan a training run: FLOPs, memory, hours, money and network; and the size that is worth the budget or the time
#[derive(clap::Args)]
pub(crate) struct Plan {
    /// Parameters, as 70B or 7e6
    #[arg(long, value_name = "N", value_parser = number, required_unless_present_any = ["depth", "hours"], conflicts_with = "depth")]
    params: Option<f64>,
    /// The dial of `train pretrain`, instead of parameters
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Hours of this machine: which depth of the dial to train in them, measured and by the law of --ladder
    #[arg(long, value_name = "H", conflicts_with_all = ["params", "depth", "tokens"], requires = "data")]
    hours: Option<f64>,
    /// The folder that `data build` made, for --hours
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Threads to compute with, for --hours [default: all processors]
    #[arg(long, value_name = "N", value_parser = flags::threads)]
    threads: Option<usize>,
    /// Training tokens, as 2T [default: what the dial says; 20 a parameter]
    #[arg(long, value_name = "N", value_parser = number)]
    tokens: Option<f64>,
    /// What a rank is: a GPU by its name (a100, h100, …), or cpu: this machine, measured
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    gpu: String,
    /// Ranks
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks: usize,
    /// Dollars an hour of a rank [default: as in the table of devices]
    #[arg(long, value_name = "USD")]
    price: Option<f64>,
    /// Share of the peak that training reaches, 0 to 1 [default: as in the table]
    #[arg(long, value_name = "X")]
    mfu: Option<f64>,
    /// Tokens between two updates, of all ranks together [default: 4M, or a hundredth of the run]
    #[arg(long, value_name = "N", value_parser = number)]
    batch: Option<f64>,
    /// Rows of the embedding
    #[arg(long, value_name = "N", default_value_t = 32_000)]
    vocabulary: usize,
    /// Tokens of a row
    #[arg(long, value_name = "N", default_value_t = 4096)]
    context: usize,
    /// The folder of a ladder's runs, whose law stands beside the published ones
    #[arg(long, value_name = "DIR")]
    ladder: Option<PathBuf>,
    /// How far a law is asked beyond the budgets that it was measured with, at most
    #[arg(long, value_name = "X", default_value_t = optimum::FACTOR)]
    factor: f64,
    /// Ask further all the same, with a warning
    #[arg(long)]
    force: bool,
    /// Tokens that the model will serve later: the best size then is smaller
    #[arg(long, value_name = "N", value_parser = number)]
    served: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `70B`, `2T`, `7e6`, `1_000_000`.
fn number(text: &str) -> Result<f64, String> {
    let plain = text.replace(['_', ','], "");
    let (digits, factor) = match plain.char_indices().last() {
        Some((at, unit)) if unit.is_alphabetic() => {
            let factor = match unit.to_ascii_lowercase() {
                'k' => 1e3,
                'm' => 1e6,
                'b' | 'g' => 1e9,
                't' => 1e12,
                _ => return Err(format!("{unit:?}: expected k, M, B or T")),
            };
            (&plain[..at], factor)
        }
        _ => (&plain[..], 1.0),
    };
    let value = digits.trim().parse::<f64>().ok().map(|value| value * factor);
    value
        .filter(|value| *value > 0.0 && value.is_finite())
        .ok_or("expected a number above 0".into())
}

impl Plan {
    pub(crate) fn run(self) -> Result<()> {
        if let (Some(hours), Some(data)) = (self.hours, &self.data) {
            return self.choose(hours, data);
        }
        let request = self.request()?;
        let cost = cost::of(&request)?;
        let ladder = self.ladder()?;
        let optima = optimum::at(cost.six_nd, ladder.as_ref(), self.factor, self.force);
        let served = match self.served {
            Some(tokens) => Some(optimum::served(&Law::BESIROGLU, cost.six_nd, tokens, 1.0)?),
            None => None,
        };
        if self.json {
            let optima = optima?;
            let all = json!({ "cost": cost, "optima": optima, "served": served });
            println!("{}", serde_json::to_string_pretty(&all)?);
            return Ok(());
        }
        print!("{}", cost.table());
        println!();
        // The cost stands whether or not a law reaches that far.
        match optima {
            Ok(optima) => print!("{}", optima.table()),
            Err(why) => eprintln!("no optimum: {why}"),
        }
        if let Some(served) = served {
            print!("\n{}", served.table());
        }
        Ok(())
    }

    /// The depth that is best for the hours.
    fn choose(&self, hours: f64, data: &Path) -> Result<()> {
        let threads = self.threads.unwrap_or_else(train::processors);
        let vocabulary = pretrain::tokenizer(data)?.vocabulary_size();
        let shards = Shards::open(&data.join(pretrain::SHARDS), TRAIN, Check::Lazily)?;
        let set = Overrides::default();
        let depths = [1, 2, 4, 6].map(|depth| dial::with(depth, vocabulary, &set));
        let dials: Vec<_> = depths.into_iter().collect::<yushan_train::Result<_>>()?;
        let (law, measured, whose) = match self.ladder()? {
            Some(report) => {
                let measured = optimum::measured(&report);
                let law = report.parametric.map_err(BadFile)?.law;
                (
                    law,
                    measured,
                    "the law of this ladder: its text, tokenizer, optimizer and schedule",
                )
            }
            None => {
                (Law::BESIROGLU, optimum::HOFFMANN, "arXiv 2404.10102: other text, other tokenizer")
            }
        };
        let choices = choice::all(&choice::Request {
            hours,
            law,
            speed: scale::measured(&dials, threads)?,
            vocabulary,
            corpus_tokens: Some(shards.tokens()),
            set,
        })?;
        let most = choices.iter().map(choice::Choice::flops).fold(0.0, f64::max);
        if let Some(why) = optimum::refused(most, measured, self.factor) {
            let advice = "give the --ladder of runs near it (`yushan scale`), or --force";
            match self.force {
                true => eprintln!("warning: {why}: forced"),
                false => return Err(BadUsage(format!("{whose}: {why}; {advice}")).into()),
            }
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&choices)?);
            return Ok(());
        }
        print!("{}", choice::table(&choices));
        println!("loss by {whose}; text that is seen again counts less (arXiv 2305.16264)");
        if let Some(best) = choice::best(&choices) {
            let Defaults { depth, tokens, .. } = best.settings;
            let data = data.display();
            println!(
                "yushan train pretrain --data {data} --depth {depth} --set train.tokens={tokens}"
            );
        }
        Ok(())
    }

    fn request(&self) -> Result<cost::Request> {
        let (shape, tokens) = match (self.params, self.depth) {
            (Some(parameters), _) => {
                let shape = Shape::about(parameters, self.vocabulary, self.context)?;
                (shape, 20.0 * parameters)
            }
            (None, Some(depth)) => {
                let dial = dial::from_depth(depth, self.vocabulary)?;
                (dial.shape(), dial.tokens as f64)
            }
            (None, None) => return Err(BadUsage("give --params or --depth".into()).into()),
        };
        let mut device = device::find(&self.gpu)?;
        device.price = self.price.unwrap_or(device.price);
        device.utilisation = self.mfu.unwrap_or(device.utilisation);
        let tokens = self.tokens.unwrap_or(tokens);
        let mut request = cost::Request::new(shape, tokens, device, self.ranks);
        request.batch_tokens = self.batch.unwrap_or(request.batch_tokens);
        Ok(request)
    }

    fn ladder(&self) -> Result<Option<Report>> {
        let Some(folder) = &self.ladder else { return Ok(None) };
        let options = Options { convention: Convention::All, ..Options::default() };
        Ok(Some(of_records(&runner::load(folder)?, Vec::new(), &options)?))
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_as_people_write_them() {
        for (text, expected) in [
            ("70B", Some(70e9)),
            ("2T", Some(2e12)),
            ("7e6", Some(7e6)),
            ("1_000", Some(1000.0)),
            ("1,000", Some(1000.0)),
            ("1.5k", Some(1500.0)),
            ("7m", Some(7e6)),
            ("-1", None),
            ("0", None),
            ("7x", None),
            ("", None),
            ("B", None),
        ] {
            assert_eq!(number(text).ok(), expected, "{text:?}");
        }
    }
}
