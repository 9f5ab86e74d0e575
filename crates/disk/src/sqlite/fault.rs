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
            Fault::Disk(error) => return error,
            Fault::Sql(error) => error,
        };
        let said = format!("{}: {error}", path.display());
        match error {
            Error::SqliteFailure(code, _) | Error::SqlInputError { error: code, .. } => match code
                .code
            {
                ErrorCode::DiskFull => full(&said),
                // The index of the log beside the database could not grow.
                _ if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => full(&said),
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => DiskError::Damaged(said),
                _ => DiskError::Failed(said),
            },
            // A column that is not what the schema says.
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows => DiskError::Damaged(said),
            _ => DiskError::Failed(said),
        }
    }
}

fn full(said: &str) -> DiskError {
    DiskError::Full(format!("{said}; free some room and try again"))
}
