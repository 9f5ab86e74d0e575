//! Swap: what processes had read and written, as keys and values, while they have no place in an engine.
//!
//! Copies stay in memory within a budget; beyond it those that come back last go to a file, and what fits
//! nowhere is dropped: its history is read again. The same happens to a copy that cannot be written or
//! read, so no fault of a disk is a fault of a process.
//!
//! The key decision: the engine never waits for the disk. A thread writes and reads; a copy on its way out
//! can still be taken from memory, and a process whose copy is on its way back is not planned meanwhile.
//! If that thread ends, what only the file has is lost, and whoever waited for it reads its history again.
//! At most [`UNDERWAY`] copies in either direction are in memory beside the budget. The file has no
//! structure of its own: who has which part of it is known here alone, and is over with the system.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread::JoinHandle;

use super::Command;
use crate::process::Pid;

/// Copies that are written, and that are read, at once.
const UNDERWAY: usize = 2;

/// Where copies go that have no room in memory.
pub struct SwapFile {
    /// The file; nobody else may use it.
    pub file: File,
    /// How long it may become.
    pub bytes: u64,
}

/// What became of copies so far, and where they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Processes whose keys and values were copied out.
    pub out: u64,
    /// Their bytes.
    pub out_bytes: u64,
    /// Copies that came back.
    pub back: u64,
    /// Their bytes.
    pub back_bytes: u64,
    /// Copies that found no room, or that the disk lost.
    pub dropped: u64,
    /// Bytes of copies in memory.
    pub memory_bytes: u64,
    /// Bytes of copies in the file.
    pub file_bytes: u64,
}

/// Where a copy is.
enum Place {
    Memory(Arc<Vec<u8>>),
    /// On its way to this part of the file.
    Leaving(u64, Arc<Vec<u8>>),
    /// In the file: where, and how long.
    File(u64, usize),
    /// On its way back.
    Coming(u64),
    /// In the file and in memory.
    Here(u64, Arc<Vec<u8>>),
    /// Nowhere.
    Lost,
}

/// What there is of a process.
pub(super) enum Taken {
    Copy(Arc<Vec<u8>>),
    /// It will be told when it is here.
    Coming,
    Lost,
}

/// What the thread is asked for: a part of the file, and what to write there or how much to read.
enum Order {
    Write(u64, Arc<Vec<u8>>),
    Read(u64, usize),
}

/// What the thread answers.
pub(super) enum Answer {
    Written(u64, io::Result<()>),
    Read(u64, io::Result<Vec<u8>>),
}

/// The thread of the file, and which parts of the file are in use.
struct Thread {
    orders: Sender<Order>,
    extents: Extents,
    handle: JoinHandle<()>,
}

/// All copies.
pub(super) struct Swap {
    budget: u64,
    places: BTreeMap<Pid, Place>,
    /// Who waits for a copy in the file.
    asked: VecDeque<Pid>,
    file: Option<Thread>,
    counts: Swapped,
}

impl Swap {
    /// Room for `budget` bytes in memory, and a file.
    ///
    /// # Panics
    /// If the operating system has no thread left.
    pub(super) fn new(budget: u64, file: Option<SwapFile>, commands: SyncSender<Command>) -> Swap {
        let file = file.map(|SwapFile { file, bytes }| {
            let (orders, receiver) = mpsc::channel();
            let handle = std::thread::Builder::new()
                .name("swap".into())
                .spawn(move || serve(file, &receiver, &commands))
                .expect("a thread for the swap file");
            Thread { orders, extents: Extents { most: bytes, used: BTreeMap::new() }, handle }
        });
        let (places, asked) = (BTreeMap::new(), VecDeque::new());
        Swap { budget, places, asked, file, counts: Swapped::default() }
    }

    /// Keeps a copy. Where there is no room for all in memory, `last` says whose leaves.
    pub(super) fn put(&mut self, pid: Pid, copy: Vec<u8>, last: &dyn Fn(&[Pid]) -> Option<Pid>) {
        self.counts.out += 1;
        self.counts.out_bytes += copy.len() as u64;
        self.put_back(pid, Arc::new(copy), last);
    }

    /// As [`Swap::put`], for a copy that was taken and could not be used yet.
    pub(super) fn put_back(
        &mut self,
        pid: Pid,
        copy: Arc<Vec<u8>>,
        last: &dyn Fn(&[Pid]) -> Option<Pid>,
    ) {
        self.places.insert(pid, Place::Memory(copy));
        loop {
            let held = self.places.iter().filter_map(|(pid, place)| match place {
                Place::Memory(copy) => Some((*pid, copy.len() as u64)),
                _ => None,
            });
            let (pids, bytes): (Vec<Pid>, Vec<u64>) = held.unzip();
            if bytes.iter().sum::<u64>() <= self.budget {
                return;
            }
            match last(&pids).or(pids.first().copied()) {
                Some(pid) => self.spill(pid),
                None => return,
            }
        }
    }

    /// Nothing could be kept of a process.
    pub(super) fn lose(&mut self, pid: Pid) {
        self.counts.dropped += 1;
        self.places.insert(pid, Place::Lost);
    }

    /// Sends a copy to the file, or drops it.
    fn spill(&mut self, pid: Pid) {
        let Some(Place::Memory(copy)) = self.places.remove(&pid) else { return };
        let leaving = self.count(|place| matches!(place, Place::Leaving(..)));
        let sent = self.file.as_mut().filter(|_| leaving < UNDERWAY).and_then(|thread| {
            let at = thread.extents.take(copy.len() as u64)?;
            thread.orders.send(Order::Write(at, copy.clone())).ok()?;
            Some(at)
        });
        match sent {
            Some(at) => {
                self.places.insert(pid, Place::Leaving(at, copy));
            }
            None => self.lose(pid),
        }
    }

    /// Takes a copy, or asks for it.
    pub(super) fn take(&mut self, pid: Pid) -> Taken {
        match self.places.remove(&pid) {
            // The part of the file of one that leaves is free when the thread has answered.
            Some(Place::Memory(copy) | Place::Leaving(_, copy)) => Taken::Copy(copy),
            Some(Place::Here(at, copy)) => {
                self.free(at);
                Taken::Copy(copy)
            }
            Some(place @ (Place::File(..) | Place::Coming(_))) => {
                if matches!(place, Place::File(..)) && !self.asked.contains(&pid) {
                    self.asked.push_back(pid);
                }
                self.places.insert(pid, place);
                Taken::Coming
            }
            Some(Place::Lost) | None => Taken::Lost,
        }
    }

    /// A copy is in an engine again.
    pub(super) fn came_back(&mut self, copy: &[u8]) {
        self.counts.back += 1;
        self.counts.back_bytes += copy.len() as u64;
    }

    /// Has copies read that were asked for; who waited for one that will not come. One that is here and
    /// whose process is not `wanted` any more gives up its room in memory: it is still in the file.
    pub(super) fn read(&mut self, wanted: &dyn Fn(Pid) -> bool) -> Vec<Pid> {
        if self.file.as_ref().is_some_and(|thread| thread.handle.is_finished()) {
            return self.give_up_file();
        }
        while let Some(&pid) = self.asked.front() {
            let in_memory = |place: &Place| matches!(place, Place::Coming(_) | Place::Here(..));
            if self.count(in_memory) >= UNDERWAY {
                let unwanted = self.places.iter_mut().find_map(|(pid, place)| match place {
                    Place::Here(at, copy) if !wanted(*pid) => Some((*at, copy.len(), place)),
                    _ => None,
                });
                let Some((at, length, place)) = unwanted else { return Vec::new() };
                *place = Place::File(at, length);
            }
            self.asked.pop_front();
            let (Some(Place::File(at, length)), Some(thread)) = (self.places.get(&pid), &self.file)
            else {
                continue;
            };
            let (at, sent) = (*at, thread.orders.send(Order::Read(*at, *length)));
            self.places.insert(pid, Place::Coming(at));
            if sent.is_err() {
                return self.give_up_file();
            }
        }
        Vec::new()
    }

    /// The thread of the file has ended: what only the file has is lost. Who waited for it.
    fn give_up_file(&mut self) -> Vec<Pid> {
        self.file = None;
        let mut waited: Vec<Pid> = self.asked.drain(..).collect();
        let mut lost = 0;
        for (pid, place) in &mut self.places {
            *place = match std::mem::replace(place, Place::Lost) {
                Place::Leaving(_, copy) | Place::Here(_, copy) => Place::Memory(copy),
                place @ (Place::Memory(_) | Place::Lost) => place,
                Place::File(..) => {
                    lost += 1;
                    Place::Lost
                }
                Place::Coming(_) => {
                    lost += 1;
                    waited.push(*pid);
                    Place::Lost
                }
            };
        }
        self.counts.dropped += lost;
        waited
    }

    /// Takes note of what the thread has done; whose copy is here, or lost, and was waited for.
    pub(super) fn answer(&mut self, answer: Answer) -> Option<Pid> {
        let (Answer::Written(at, _) | Answer::Read(at, _)) = answer;
        let owner = self.places.iter().find(|(_, place)| match place {
            Place::Leaving(part, _) | Place::Coming(part) => *part == at,
            _ => false,
        });
        let Some((&pid, place)) = owner else {
            // Who owned it has ended, or took it while it was written.
            self.free(at);
            return None;
        };
        let place = match (answer, place) {
            (Answer::Written(_, Ok(())), Place::Leaving(_, copy)) => Place::File(at, copy.len()),
            (Answer::Read(_, Ok(copy)), _) => Place::Here(at, Arc::new(copy)),
            _ => Place::Lost,
        };
        let waited = !matches!(place, Place::File(..));
        match place {
            Place::Lost => {
                self.free(at);
                self.lose(pid);
            }
            place => {
                self.places.insert(pid, place);
            }
        }
        waited.then_some(pid)
    }

    /// Forgets a process.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.asked.retain(|other| *other != pid);
        if let Some(Place::File(at, _) | Place::Here(at, _)) = self.places.remove(&pid) {
            self.free(at);
        }
    }

    /// What became of copies so far, and where they are.
    pub(super) fn counts(&self) -> Swapped {
        let memory = self.places.values().map(|place| match place {
            Place::Memory(copy) | Place::Leaving(_, copy) | Place::Here(_, copy) => copy.len(),
            Place::File(..) | Place::Coming(_) | Place::Lost => 0,
        });
        let used = self.file.as_ref().map_or(0, |thread| thread.extents.used.values().sum());
        Swapped { memory_bytes: memory.sum::<usize>() as u64, file_bytes: used, ..self.counts }
    }

    fn count(&self, is: impl Fn(&Place) -> bool) -> usize {
        self.places.values().filter(|place| is(place)).count()
    }

    fn free(&mut self, at: u64) {
        if let Some(thread) = &mut self.file {
            thread.extents.used.remove(&at);
        }
    }
}

/// Which parts of the file are in use: where each begins, and its length.
struct Extents {
    most: u64,
    used: BTreeMap<u64, u64>,
}

impl Extents {
    /// The first gap that is long enough.
    fn take(&mut self, length: u64) -> Option<u64> {
        let mut at = 0;
        for (&start, &used) in &self.used {
            if start - at >= length {
                break;
            }
            at = start + used;
        }
        let fits = at.checked_add(length).is_some_and(|end| end <= self.most);
        fits.then(|| self.used.insert(at, length))?;
        Some(at)
    }
}

/// The thread of the file. It ends with the system.
fn serve(mut file: File, orders: &Receiver<Order>, commands: &SyncSender<Command>) {
    for order in orders {
        let answer = match order {
            Order::Write(at, copy) => Answer::Written(at, write(&mut file, at, &copy)),
            Order::Read(at, length) => Answer::Read(at, read(&mut file, at, length)),
        };
        if commands.send(Command::Swapped(answer)).is_err() {
            return;
        }
    }
}

fn write(file: &mut File, at: u64, copy: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(copy)
}

fn read(file: &mut File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut copy = vec![0; length];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever waits for a copy is told when the thread of the file has ended, whether it was asked before
    /// or after; what is still in memory is used.
    #[test]
    fn nobody_waits_for_a_thread_that_has_ended() {
        let (commands, answers) = mpsc::sync_channel(8);
        let file = SwapFile { file: tempfile::tempfile().expect("a file"), bytes: 1 << 20 };
        let mut swap = Swap::new(0, Some(file), commands);
        let last = |pids: &[Pid]| pids.last().copied();
        for pid in [1, 2] {
            swap.put(Pid(pid), vec![7; 100], &last);
            let Ok(Command::Swapped(answer)) = answers.recv() else { panic!("it is written") };
            assert_eq!(swap.answer(answer), None);
        }
        assert!(matches!(swap.take(Pid(1)), Taken::Coming));
        assert_eq!(swap.read(&|_| true), []);
        let Ok(Command::Swapped(answer)) = answers.recv() else { panic!("it is read") };
        assert_eq!(swap.answer(answer), Some(Pid(1)));
        assert!(matches!(swap.take(Pid(1)), Taken::Copy(copy) if *copy == [7; 100]));
        // It ends when nobody hears its answer.
        drop(answers);
        swap.put(Pid(3), vec![9; 100], &last);
        assert!(matches!(swap.take(Pid(2)), Taken::Coming));
        let woken = std::iter::repeat_with(|| swap.read(&|_| true)).find(|pids| !pids.is_empty());
        assert_eq!(woken, Some(vec![Pid(2)]));
        assert!(matches!(swap.take(Pid(2)), Taken::Lost));
        assert!(matches!(swap.take(Pid(3)), Taken::Copy(copy) if *copy == [9; 100]));
        // From now on what has no room in memory is lost at once.
        swap.put(Pid(4), vec![9; 100], &last);
        assert!(matches!(swap.take(Pid(4)), Taken::Lost));
        assert_eq!((swap.counts().dropped, swap.counts().file_bytes), (2, 0));
    }
}
