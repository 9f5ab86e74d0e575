//! What went wrong under a call, on its way to a [`DiskError`].
//!
//! The key decision: SQLite's code decides. No room is `Full`, what does not read as it was written
//! is `Damaged`, all else is `Failed`; the path and what SQLite said go along.

use std::path::Path;

use rusqlite::{Error, ErrorCode, ffi};
use yushan_abi::DiskError;

/// An error inside of a transaction.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite's.
    Sql(Error),
    /// Already said.
    Disk(DiskError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Sql(error)
    }
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        Fault::Disk(error)
    }
}

impl Fault {
    /// What the caller is told about the database at `path`.
    pub(super) fn at(self, path: &Path) -> DiskError {
        let error = match self {
            Fault::Disk(DiskError::Damaged(said)) => return damaged(path, &said),
            Fault::Disk(error) => return error,
            Fault::Sql(error) => error,
        };
        let failed = DiskError::Failed(format!("{}: {error}", path.display()));
        match &error {
            Error::SqliteFailure(code, _) => match code.code {
                ErrorCode::DiskFull => full(path, &error),
                // The operating system's own words are lost here.
                ErrorCode::CannotOpen | ErrorCode::ReadOnly => DiskError::Failed(format!(
                    "{}: {error}; see whether the disk is full and whether the folder may be written to",
                    path.display()
                )),
                // The index of the log beside the database could not grow.
                _ if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => full(path, &error),
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    damaged(path, &error.to_string())
                }
                _ => failed,
            },
            // A statement, or a column, that the tables do not answer as our schema does.
            Error::SqlInputError { .. }
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows => damaged(path, &error.to_string()),
            _ => failed,
        }
    }
}

fn full(path: &Path, error: &Error) -> DiskError {
    DiskError::Full(format!("{}: {error}; free some room and try again", path.display()))
}

fn damaged(path: &Path, said: &str) -> DiskError {
    DiskError::Damaged(format!("{}: {said}; bring it back from a copy", path.display()))
}
