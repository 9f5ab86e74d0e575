//! Where models are kept.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The data home: `YUSHAN_HOME`, or `yushan` in the XDG data folder.
pub(crate) fn home() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(home) = variable("YUSHAN_HOME") {
        return Ok(home.into());
    }
    match (variable("XDG_DATA_HOME"), variable("HOME")) {
        (Some(data), _) => Ok(PathBuf::from(data).join("yushan")),
        (None, Some(home)) => Ok(PathBuf::from(home).join(".local/share/yushan")),
        (None, None) => bail!("there is no home folder: set YUSHAN_HOME"),
    }
}
