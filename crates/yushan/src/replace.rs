//! A file in place of another: whole, or the old one stays.
//!
//! The key decision: written beside it, synced, renamed over it. What is not a file (a pipe, a terminal) is
//! written to as it stands.

use std::fs::{self, File};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file, made if there is none.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let path = match fs::metadata(path) {
        Ok(there) if !there.is_file() => return fs::write(path, bytes),
        // Where a link leads to.
        Ok(_) => path.canonicalize()?,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_path_buf(),
        Err(error) => return Err(error),
    };
    let mut new = path.file_name().unwrap_or_default().to_os_string();
    new.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(new);
    // Nobody else reads it before it has the permissions of the old one.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| {
        if let Ok(there) = fs::metadata(&path) {
            fs::set_permissions(&new, there.permissions())?;
        }
        fs::rename(&new, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&new); // the first error is the one that counts
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace(&path, b"one").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&link, b"two").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!((fs::read(&path).unwrap(), link.is_symlink()), (b"two".to_vec(), true));
        // Where nothing can be made beside it, it stays as it is.
        let taken = folder.path().join(format!("a.json.{}.new", std::process::id()));
        fs::create_dir(&taken).unwrap();
        assert!(replace(&path, b"three").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        fs::remove_dir(&taken).unwrap();
        assert!(replace(&folder.path().join("absent/a"), b"").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
        replace(Path::new("/dev/null"), b"gone").unwrap();
    }
}
