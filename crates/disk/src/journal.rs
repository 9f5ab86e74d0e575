//! The journal's chain: every record holds the hash of all that went before it.
//!
//! The key decision: the hash covers the record's place and its body's length too, so a record that
//! was changed, taken out or moved breaks the chain where it happened. What was cut off at the end
//! breaks no chain; therefore a *head* (how many records, and the hash of the last) is kept beside
//! the records, written in the same transaction.
//!
//! This finds damage and clumsy hands. Whoever may write the whole file can also compute a new
//! chain; keep the head elsewhere to find that.

use yushan_abi::{DiskError, NewRecord, Record};

use crate::digest::{Hash, sha256};

/// The end of a journal: what the next record is chained to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The number of the last record; 0: there is none.
    pub(crate) seq: u64,
    /// The hash of the last record; zeros: there is none.
    pub(crate) hash: Hash,
}

impl Head {
    /// Makes the next record, and stands behind it.
    pub(crate) fn chain(&mut self, new: &NewRecord) -> Record {
        let NewRecord { time_ms, pid, body } = new;
        let mut record = Record {
            seq: self.seq + 1,
            time_ms: *time_ms,
            pid: *pid,
            body: body.clone(),
            hash: [0; 32],
        };
        record.hash = hash(&self.hash, &record);
        *self = Head { seq: record.seq, hash: record.hash };
        record
    }

    /// Checks that this is the next record, and stands behind it.
    pub(crate) fn follow(&mut self, record: &Record) -> Result<(), DiskError> {
        let expected = self.seq + 1;
        if record.seq != expected {
            let found = record.seq;
            return Err(DiskError::Damaged(format!(
                "the journal's record {expected} is missing: {found} stands in its place"
            )));
        }
        if record.hash != hash(&self.hash, record) {
            return Err(DiskError::Damaged(format!(
                "the journal's record {expected} is not as it was written: its hash does not \
                 follow from it and \
                 the record before"
            )));
        }
        *self = Head { seq: record.seq, hash: record.hash };
        Ok(())
    }

    /// Checks that the records end where the journal does; `self` is behind the last record.
    pub(crate) fn ends_at(&self, end: &Head) -> Result<(), DiskError> {
        if self == end {
            return Ok(());
        }
        Err(DiskError::Damaged(format!(
            "the journal's records end at {}, but {} were written",
            self.seq, end.seq
        )))
    }
}

/// SHA-256 over the hash before (32 bytes), then as 8 bytes each, little-endian, the record's
/// number, time, process and length of body, then the body.
fn hash(before: &Hash, record: &Record) -> Hash {
    let Record { seq, time_ms, pid, body, .. } = record;
    let numbers = [*seq, *time_ms, *pid, body.len() as u64].map(u64::to_le_bytes);
    sha256(&[before, numbers.as_flattened(), body.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::hex;

    /// `python3 -c "from hashlib import sha256 as s; from struct import pack as p; h=bytes(32)`
    /// `for i,(t,d,b) in enumerate([(1700000000000,7,b'{}'),(2**64-1,0,'玉山'.encode())],1):`
    /// ` h=s(h+p('<QQQQ',i,t,d,len(b))+b).digest(); print(h.hex())"` (lines joined).
    #[test]
    fn hashes_are_those_of_an_independent_implementation() {
        let mut head = Head::default();
        for (time_ms, pid, body, expected) in [
            (
                1_700_000_000_000,
                7,
                "{}",
                "3d2a0dadc740979e4698e8c5adda2b6fd60cad9b8d6ed54bf7a310afdd69eaf2",
            ),
            (
                u64::MAX,
                0,
                "玉山",
                "dd0a326af43e98f24a5bcaef959204f28574626be48ee4f6d9f3be686af70dbb",
            ),
        ] {
            let record = head.chain(&NewRecord { time_ms, pid, body: body.to_string() });
            assert_eq!(hex(&record.hash), expected, "record {}", record.seq);
        }
    }
}
