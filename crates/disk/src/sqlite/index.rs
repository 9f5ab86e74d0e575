//! The search on SQLite's full text (FTS5).
//!
//! The key decision: FTS5 keeps which term stands where, and nothing else. Texts are split by
//! [`crate::words`] and the terms handed over one by one, each marked with the number of its owner; a
//! search reads the places of a term by its exact name, so there is no query language that a query
//! could break or escape into, and never a term of somebody else's.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use yushan_abi::{DiskError, Hit, Index, Item};

use super::Sqlite;
use super::fault::Fault;
use crate::words::{Corpus, asked, terms};

impl Index for Sqlite {
    fn insert(&self, item: &Item) -> Result<(), DiskError> {
        self.write(|transaction| insert(transaction, item))
    }

    fn remove(&self, owner: &str, id: &str) -> Result<bool, DiskError> {
        self.write(|transaction| remove(transaction, owner, id))
    }

    fn search(&self, owner: &str, query: &str, limit: usize) -> Result<Vec<Hit>, DiskError> {
        self.read(|reader| {
            let found = reader
                .prepare_cached("SELECT number, items, terms FROM owners WHERE name = ?")?
                .query_row([owner], |row| {
                    let (items, terms) = (row.get::<_, i64>(1)?, row.get::<_, i64>(2)?);
                    let corpus =
                        Corpus { items: items.cast_unsigned(), terms: terms.cast_unsigned() };
                    Ok((row.get(0)?, corpus))
                })
                .optional()?;
            let Some((number, corpus)) = found else { return Ok(Vec::new()) };
            let mut scores = scores(reader, number, &corpus, query)?;
            scores.sort_by(|(x, a), (y, b)| b.total_cmp(a).then(y.cmp(x)));
            scores.truncate(limit);
            scores.into_iter().map(|(item, score)| hit(reader, owner, item, score)).collect()
        })
    }
}

/// The items that have any term of the query, by number, with how well they fit.
fn scores(
    reader: &Connection,
    owner: i64,
    corpus: &Corpus,
    query: &str,
) -> Result<Vec<(i64, f64)>, Fault> {
    let mut places = reader.prepare_cached(
        "SELECT doc, count(*), items.terms FROM places JOIN items ON items.number = doc
         WHERE term = ? GROUP BY doc",
    )?;
    let mut scores: HashMap<i64, f64> = HashMap::new();
    for term in asked(query) {
        let found = places.query_map([marked(owner, &term)], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })?;
        let found: Vec<(i64, i64, i64)> = found.collect::<Result<_, _>>()?;
        for (item, count, length) in &found {
            let score =
                corpus.score(count.cast_unsigned(), length.cast_unsigned(), found.len() as u64);
            scores.entry(*item).and_modify(|sum| *sum += score).or_insert(score);
        }
    }
    Ok(scores.into_iter().collect())
}

fn hit(reader: &Connection, owner: &str, number: i64, score: f64) -> Result<Hit, Fault> {
    let sql = "SELECT id, text, label FROM items WHERE number = ?";
    let (id, text, label): (String, String, String) = reader
        .prepare_cached(sql)?
        .query_row([number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let label = serde_json::from_str(&label)
        .map_err(|error| DiskError::Damaged(format!("the label of the item {id:?}: {error}")))?;
    Ok(Hit { item: Item { id, owner: owner.to_string(), text, label }, score })
}

/// Adds an item, in place of one with its id, to its owner's figures too.
pub(super) fn insert(transaction: &Transaction<'_>, item: &Item) -> Result<(), Fault> {
    let label = serde_json::to_string(&item.label).map_err(|error| {
        DiskError::Failed(format!("the label of {:?} has no JSON: {error}", item.id))
    })?;
    let terms = terms(&item.text);
    remove(transaction, &item.owner, &item.id)?;
    let owner: i64 = transaction
        .prepare_cached(
            "INSERT INTO owners (name, items, terms) VALUES (?, 1, ?)
             ON CONFLICT (name) DO UPDATE SET items = items + 1, terms = terms + excluded.terms
             RETURNING number",
        )?
        .query_row(params![item.owner, terms.total.cast_signed()], |row| row.get(0))?;
    let number: i64 = transaction
        .prepare_cached(
            "INSERT INTO items (owner, id, text, label, terms) VALUES (?, ?, ?, ?, ?)
             RETURNING number",
        )?
        .query_row(params![owner, item.id, item.text, label, terms.total.cast_signed()], |row| {
            row.get(0)
        })?;
    let mut words = String::new();
    for (term, count) in &terms.counts {
        (0..*count).for_each(|_| words.extend([&*marked(owner, term), " "]));
    }
    let sql = "INSERT INTO words (rowid, terms) VALUES (?, ?)";
    transaction.prepare_cached(sql)?.execute(params![number, words])?;
    Ok(())
}

/// Removes an item, and what its owner's figures have of it; whether it was there.
pub(super) fn remove(transaction: &Transaction<'_>, owner: &str, id: &str) -> Result<bool, Fault> {
    let removed: Option<(i64, i64, i64)> = transaction
        .prepare_cached(
            "DELETE FROM items WHERE id = ? AND owner = (SELECT number FROM owners WHERE name = ?)
             RETURNING number, owner, terms",
        )?
        .query_row([id, owner], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((number, owner, terms)) = removed else { return Ok(false) };
    transaction.prepare_cached("DELETE FROM words WHERE rowid = ?")?.execute([number])?;
    transaction
        .prepare_cached("UPDATE owners SET items = items - 1, terms = terms - ? WHERE number = ?")?
        .execute([terms, owner])?;
    Ok(true)
}

/// A term as one of its owner's. FTS5's `ascii` takes letters, digits and all that is beyond ASCII for
/// parts of a word, and so the mark.
fn marked(owner: i64, term: &str) -> String {
    format!("{owner}·{term}")
}
