//! Which Python there is, and what of the packages for numbers, tables and plots.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Packages that code for data expects.
pub const PACKAGES: [&str; 3] = ["numpy", "pandas", "matplotlib"];

/// An interpreter that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The program.
    pub program: PathBuf,
    /// For example `3.11.2`.
    pub version: String,
    /// Where its libraries lie.
    pub folders: Vec<PathBuf>,
    /// Packages of [`PACKAGES`] with their versions.
    pub packages: Vec<(String, String)>,
}

/// What the interpreter says of itself.
#[derive(Deserialize)]
struct Said {
    executable: PathBuf,
    version: (u32, u32, u32),
    folders: Vec<PathBuf>,
    packages: Vec<(String, String)>,
}

const ASK: &str = "\
import json, sys
from importlib import metadata, util
def version(name):
    try:
        return metadata.version(name)
    except Exception:
        return 'of unknown version'
names = [name for name in sys.argv[1:] if util.find_spec(name)]
print(json.dumps({
    'executable': sys.executable, 'version': sys.version_info[:3],
    'folders': sorted({sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix}),
    'packages': [[name, version(name)] for name in names],
}))";

/// The oldest that the runner's code works with.
const OLDEST: (u32, u32) = (3, 9);

/// The interpreter at a path, or else the system's own, or the first `python3` there is.
///
/// # Errors
/// There is none that can be used, and the command that installs one.
pub fn find(program: Option<&Path>) -> Result<Found, String> {
    if let Some(program) = program {
        return ask(program).map_err(|why| format!("{}: {why}", program.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(PathBuf::from("/usr/bin")).chain(std::env::split_paths(&path));
    // What lies in the folder where we happen to be is nobody's choice.
    let folders = folders.filter(|folder| folder.is_absolute());
    let mut programs = folders.map(|folder| folder.join("python3")).filter(|path| path.is_file());
    let install = "install one: apt-get install python3";
    programs
        .find_map(|program| ask(&program).ok())
        .ok_or_else(|| format!("there is no Python 3; {install}"))
}

fn ask(program: &Path) -> Result<Found, String> {
    // It runs outside the sandbox: no module of the folder where we happen to be, of the user's or of the environment.
    let program = match program.components().count() {
        1 => program.to_path_buf(),
        _ => std::path::absolute(program).map_err(|error| error.to_string())?,
    };
    let mut command = Command::new(program);
    command.args(["-I", "-c", ASK]).args(PACKAGES).current_dir("/");
    let output = command.output().map_err(|error| error.to_string())?;
    let said: Said = serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("it does not run: {}", stderr.lines().last().unwrap_or("it says nothing"))
    })?;
    let (major, minor, patch) = said.version;
    if (major, minor) < OLDEST {
        return Err(format!("it is {major}.{minor}; {}.{} or newer is needed", OLDEST.0, OLDEST.1));
    }
    Ok(Found {
        program: said.executable,
        version: format!("{major}.{minor}.{patch}"),
        folders: said.folders,
        packages: said.packages,
    })
}

impl Found {
    /// Packages of [`PACKAGES`] that it lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| self.packages.iter().any(|(one, _)| one == name);
        PACKAGES.into_iter().filter(|name| !has(name)).collect()
    }

    /// The command that installs what is missing; none if nothing is.
    pub fn install(&self) -> Option<String> {
        let missing = self.missing();
        if missing.is_empty() {
            return None;
        }
        // What the system's packages bring only the system's interpreter sees.
        let command = self.program.starts_with("/usr/bin").then(|| install(&missing)).flatten();
        let pip = || format!("{} -m pip install {}", self.program.display(), missing.join(" "));
        Some(command.unwrap_or_else(pip))
    }
}

/// A package manager: its program, how it is told to install, and what it puts before the names of Python's packages.
const MANAGERS: [(&str, &str, &str); 4] = [
    ("apt-get", "apt-get install", "python3-"),
    ("dnf", "dnf install", "python3-"),
    ("pacman", "pacman -S", "python-"),
    ("apk", "apk add", "py3-"),
];

/// The command of this system's package manager that installs these: Python's packages of [`PACKAGES`], or programs by their usual
/// names. None if no package manager is known.
pub fn install(names: &[&str]) -> Option<String> {
    let has = |program: &str| {
        ["/usr/bin", "/sbin", "/usr/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    let (program, command, prefix) = MANAGERS.into_iter().find(|(program, ..)| has(program))?;
    let name = |&name: &&str| match (name, program) {
        ("python3", "pacman") => " python".to_string(),
        (name, _) if PACKAGES.contains(&name) => format!(" {prefix}{name}"),
        (name, _) => format!(" {name}"),
    };
    Some(format!("{command}{}", names.iter().map(name).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "YUSHAN_TEST_OF_A_HOSTILE_FOLDER";

    #[test]
    fn no_module_of_the_folder_we_are_in_is_run() {
        if std::env::var_os(HERE).is_some() {
            // Once more, in the folder.
            find(None).unwrap();
            find(Some(Path::new("./python"))).unwrap();
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["json", "importlib", "sitecustomize"] {
            let code = format!("open({:?}, 'w')", path.join("ran"));
            std::fs::write(path.join(format!("{name}.py")), code).unwrap();
        }
        // As a program that lies beside us, which is found all the same.
        let python = std::fs::canonicalize(find(None).unwrap().program).unwrap();
        std::os::unix::fs::symlink(python, path.join("python")).unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", "python::discover::tests::no_module_of_the_folder_we_are_in_is_run"])
            .current_dir(path)
            .env(HERE, "1")
            .env("PYTHONPATH", path);
        let said = again.output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("1 passed"), "{said}");
        assert!(!path.join("ran").exists());
    }
}
