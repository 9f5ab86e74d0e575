//! `pull`, `models` and `rm`: which models are kept here.
//!
//! The key decision: one file for the three, since each is one call of [`hub`].

use std::io::Write;

use anyhow::Result;

use crate::figures::bytes;
use crate::hub;

/// Fetch a model from a hub and keep it
#[derive(clap::Args)]
#[command(after_help = hub::VARIABLES)]
pub(crate) struct Pull {
    /// hf:OWNER/REPO:FILE, or hf:OWNER/REPO for a folder of safetensors or the only GGUF file
    name: String,
}

/// List the models that were pulled
#[derive(clap::Args)]
pub(crate) struct Models {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Delete a model that was pulled
#[derive(clap::Args)]
pub(crate) struct Rm {
    /// Its name as `yushan models` prints it, or the name of its file
    name: String,
}

impl Pull {
    pub(crate) fn run(self) -> Result<()> {
        let path = hub::pull(&self.name)?;
        writeln!(std::io::stdout(), "{}", path.display())?;
        Ok(())
    }
}

impl Models {
    pub(crate) fn run(self) -> Result<()> {
        let held = hub::list()?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let models: Vec<_> = held
                .iter()
                .map(|model| {
                    serde_json::json!({
                        "name": model.name, "bytes": model.bytes, "type": model.kind(),
                        "path": model.path.display().to_string(),
                    })
                })
                .collect();
            serde_json::to_writer_pretty(&mut out, &models)?;
            writeln!(out)?;
            return Ok(());
        }
        if held.is_empty() {
            eprintln!("no models yet: yushan pull hf:OWNER/REPO:FILE fetches one");
            return Ok(());
        }
        let width = held.iter().map(|model| model.name.chars().count()).max().unwrap_or(0).max(4);
        writeln!(out, "{:width$}  {:>8}  TYPE", "NAME", "SIZE")?;
        for model in held {
            writeln!(out, "{:width$}  {:>8}  {}", model.name, bytes(model.bytes), model.kind())?;
        }
        Ok(())
    }
}

impl Rm {
    pub(crate) fn run(self) -> Result<()> {
        let freed = hub::remove(&self.name)?;
        writeln!(std::io::stdout(), "removed {}: {} freed", self.name, bytes(freed))?;
        Ok(())
    }
}
