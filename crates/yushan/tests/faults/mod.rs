//! Faults of the operating system: a library that is preloaded, and the plan that it follows.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the operating system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    NoSpace = 28,
    InputOutput = 5,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The k-th alone.
    Once,
    /// The k-th and all after it.
    From,
}

/// The plan: which of the calls that change a file below a folder fail. Shared with all processes that
/// run under it, while they run.
pub(crate) struct Plan {
    file: File,
    path: PathBuf,
    library: PathBuf,
    folder: PathBuf,
}

/// The fields of the plan, by their places.
const COUNT: u64 = 0;
const FROM: u64 = 1;
const UNTIL: u64 = 2;
const ERROR: u64 = 3;

impl Plan {
    /// Builds the library and makes a plan in which nothing fails; both lie in `place`.
    pub(crate) fn new(place: &Path, folder: &Path) -> Plan {
        let (library, path) = (place.join("faults.so"), place.join("plan"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/faults.c");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
        compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        let built = compiler.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(4 * 8).unwrap();
        Plan { file, path, library, folder: folder.to_path_buf() }
    }

    /// Has a command run under the plan.
    pub(crate) fn over(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("YUSHAN_FAULTS", &self.path).env("YUSHAN_FAULTS_FOLDER", &self.folder);
    }

    /// From here on the k-th call fails.
    pub(crate) fn arm(&self, k: i64, how: How, error: Error) {
        self.disarm();
        self.set(COUNT, 0);
        self.set(ERROR, error as i64);
        self.set(UNTIL, if how == How::Once { k + 1 } else { i64::MAX });
        self.set(FROM, k);
    }

    /// Nothing fails any more.
    pub(crate) fn disarm(&self) {
        self.set(FROM, i64::MAX);
    }

    /// How many calls there were since the plan was armed.
    pub(crate) fn count(&self) -> i64 {
        self.get(COUNT)
    }

    fn set(&self, field: u64, value: i64) {
        self.file.write_all_at(&value.to_ne_bytes(), field * 8).unwrap();
    }

    fn get(&self, field: u64) -> i64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, field * 8).unwrap();
        i64::from_ne_bytes(bytes)
    }
}
