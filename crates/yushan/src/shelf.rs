//! What can be served: the models that were named at the start, and all that were pulled.
//!
//! The key decision: the folder is the catalogue here too. Every list looks at the disk, so that a model
//! can be served as soon as it was pulled and no longer once it was deleted, by whomever; what is read
//! of a file is remembered for as long as its size and time stay as they are.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Result;
use yushan_abi::{Complete, ModelInfo, Refusal};
use yushan_kernel::{Kernel, Loaded};
use yushan_model::Error;
use yushan_server::{Fault, Library, Progress};

use crate::exit::BadUsage;
use crate::{exit, flags, hub, wire};

/// Tells whether a file has changed.
type Stamp = (u64, Option<SystemTime>);

/// Models in files.
pub(crate) struct Files {
    /// Those named at the start: the name that clients give, and where it lies.
    given: Vec<(String, PathBuf)>,
    flags: flags::Engine,
    slots: usize,
    known: Mutex<BTreeMap<PathBuf, (Stamp, ModelInfo)>>,
}

/// A model that is there.
struct Place {
    name: String,
    aliases: Vec<String>,
    path: PathBuf,
    bytes: u64,
}

impl Files {
    pub(crate) fn new(given: Vec<(String, PathBuf)>, flags: flags::Engine, slots: usize) -> Files {
        Files { given, flags, slots, known: Mutex::default() }
    }

    /// Loads what was named at the start.
    pub(crate) fn load_given(&self) -> Result<Vec<Loaded>> {
        let load =
            |(name, path): &(String, PathBuf)| wire::load(name, path, &self.flags, self.slots);
        self.given.iter().map(load).collect()
    }

    /// All that is there: what was given first, then what was pulled.
    fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (name, path) in self.given.iter().filter(|(_, path)| path.exists()) {
            let (name, path) = (name.clone(), path.clone());
            places.push(Place { name, aliases: Vec::new(), path, bytes: 0 });
        }
        for held in hub::list().unwrap_or_default() {
            match places.iter_mut().find(|place| place.path == held.path) {
                Some(place) if place.name == held.name => place.bytes = held.bytes,
                Some(place) => {
                    place.aliases.push(held.name);
                    place.bytes = held.bytes;
                }
                None => {
                    let hub::Held { name, bytes, path } = held;
                    places.push(Place { name, aliases: Vec::new(), path, bytes });
                }
            }
        }
        add_short_names(&mut places);
        places
    }

    fn place(&self, name: &str) -> Result<Place, Refusal> {
        let found = self.places().into_iter().find(|place| place.name == name);
        found.ok_or_else(|| Refusal::NoModel(name.into()))
    }

    /// What there is to say of a model; of a file that cannot be read, its name and size.
    fn info(&self, place: Place) -> ModelInfo {
        let about = std::fs::metadata(&place.path).ok();
        let length = about.as_ref().map_or(0, std::fs::Metadata::len);
        let stamp = (place.bytes.max(length), about.and_then(|about| about.modified().ok()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let info = match known.get(&place.path) {
            Some((then, info)) if *then == stamp => info.clone(),
            _ => {
                let unreadable = |_| ModelInfo { bytes: stamp.0, ..ModelInfo::default() };
                let info = wire::describe(&place.name, &place.path, &self.flags);
                let info = info.unwrap_or_else(unreadable);
                known.insert(place.path.clone(), (stamp, info.clone()));
                info
            }
        };
        ModelInfo { name: place.name, aliases: place.aliases, ..info }
    }
}

/// Adds the repository's name to the only model in it, and a file's name where no other has it.
fn add_short_names(places: &mut [Place]) {
    let names = |place: &Place| {
        let repository = place.name.strip_prefix("hf:").and_then(|rest| rest.split_once(':'));
        let repository = repository.map(|(repository, _)| format!("hf:{repository}"));
        let file = place.path.file_name().map(|file| file.to_string_lossy().into_owned());
        let file = file.map(|file| wire::short_name(&file));
        repository.into_iter().chain(file).collect::<Vec<String>>()
    };
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for place in places.iter() {
        names(place).into_iter().for_each(|name| *count.entry(name).or_default() += 1);
    }
    for place in places {
        let short = names(place).into_iter().filter(|name| count[name] == 1 && *name != place.name);
        place.aliases.extend(short.collect::<Vec<_>>());
    }
}

impl yushan_kernel::Shelf for Files {
    fn list(&self) -> Vec<ModelInfo> {
        self.places().into_iter().map(|place| self.info(place)).collect()
    }

    fn bytes(&self, name: &str) -> Result<u64, Refusal> {
        let path = self.place(name)?.path;
        wire::bytes(&path, &self.flags, self.slots).map_err(|error| refusal(name, &path, &error))
    }

    fn load(&self, name: &str) -> Result<Loaded, Refusal> {
        let path = self.place(name)?.path;
        let loaded = wire::load(name, &path, &self.flags, self.slots);
        loaded.map_err(|error| refusal(name, &path, &error))
    }
}

/// What a client hears: the file's fault, and not where it lies.
fn refusal(name: &str, path: &Path, error: &anyhow::Error) -> Refusal {
    let line = exit::line(error).replace(&path.display().to_string(), name);
    match error.downcast_ref::<Error>() {
        Some(Error::Memory { .. }) => Refusal::NoMemory(line),
        _ => Refusal::Internal(format!("{name} cannot be loaded: {line}")),
    }
}

/// Models on the hub and on the disk.
pub(crate) struct Pulled(pub(crate) Arc<Kernel>);

impl Library for Pulled {
    fn pull(
        &self,
        name: &str,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let status = |status: &str| Progress { status: status.into(), ..Progress::default() };
        if progress(status("pulling manifest")).is_break() {
            return Ok(());
        }
        hub::pull(name).map_err(fault)?;
        self.look();
        let _ = progress(status("success"));
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), Fault> {
        hub::remove(name).map_err(fault)?;
        self.look();
        Ok(())
    }
}

impl Pulled {
    /// Lets the kernel see what has changed: it gives up what is gone or was replaced.
    fn look(&self) {
        self.0.models();
    }
}

fn fault(error: anyhow::Error) -> Fault {
    let detail = exit::line(&error);
    match error.is::<BadUsage>() {
        true => Fault::invalid("model", detail),
        false => Fault::Absent(detail),
    }
}
