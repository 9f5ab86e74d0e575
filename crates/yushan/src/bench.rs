//! stub
use anyhow::Result;
/// Measure speed
#[derive(clap::Args)]
pub(crate) struct Bench {
    file: String,
}
impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        Ok(())
    }
}
