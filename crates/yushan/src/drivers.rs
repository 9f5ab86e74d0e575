//! The drivers of this system: which tools there are on this machine, and the files that they share.
//!
//! The key decision: what a tool needs is looked for when the system starts, once; a tool that cannot work here is not
//! offered, and what is missing is said by `yushan doctor`. Addresses and keys of search engines come from the
//! environment, as secrets do.

use std::sync::{Arc, OnceLock, Weak};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use yushan_abi::{
    Complete, Disk, Effect, Event, FileRef, Form, Index, Label, Overflow, Prompt, Request, Tool,
};
use yushan_server::{Fault, Spaces};
use yushan_tools::archive;
use yushan_tools::archive::driver::{ArchiveExtract, ArchiveList};
use yushan_tools::calculator::Calculator;
use yushan_tools::convert::driver::Convert;
use yushan_tools::convert::{self, Format};
use yushan_tools::draw::driver::Draw;
use yushan_tools::draw::endpoint::{Endpoint, EndpointConfig};
use yushan_tools::draw::image::Image;
use yushan_tools::files::Files;
use yushan_tools::mcp::{Bridge, ServerConfig};
use yushan_tools::python::{Limits, Python, discover};
use yushan_tools::search::keyed::Keyed;
use yushan_tools::search::library::Library;
use yushan_tools::search::{Providers, Search};
use yushan_tools::space::{Space, SpaceError};
use yushan_tools::web::chromium::Chromium;
use yushan_tools::web::fetch::Fetcher;
use yushan_tools::web::guard::Guard;
use yushan_tools::web::held::Held;
use yushan_tools::web::reader::Reader;

use crate::exit::BadUsage;
use crate::hub;

/// The address of a SearXNG, for example `http://127.0.0.1:8888`.
const SEARXNG: &str = "YUSHAN_SEARXNG";
/// The key of the Brave Search API.
const BRAVE: &str = "YUSHAN_BRAVE_KEY";
/// The key of the Tavily API.
const TAVILY: &str = "YUSHAN_TAVILY_KEY";

/// Which tools the system has.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Tools {
    /// Start without any tool
    #[arg(long)]
    no_tools: bool,
    /// Let web tools reach this host on this machine or network, for example 127.0.0.1:8000
    #[arg(long, value_name = "HOST:PORT")]
    web_allow: Vec<String>,
    /// The model whose vectors search_kept compares too, if `library add` was given it
    #[arg(long, value_name = "MODEL")]
    embed_model: Option<String>,
}

/// Where models are asked, once the system is built: tools are there before.
pub(crate) type Asked = Arc<OnceLock<Weak<dyn Complete>>>;

/// A guard that lets these through.
pub(crate) fn guard(allowed: &[String]) -> Result<Guard> {
    allowed.iter().try_fold(Guard::default(), |guard, place| {
        let guard = guard.allow(place);
        guard.map_err(|why| BadUsage(format!("--web-allow {place}: {why}")).into())
    })
}

impl Tools {
    /// The model whose vectors are compared.
    pub(crate) fn embed_model(&self) -> Option<&str> {
        self.embed_model.as_deref()
    }

    /// All that work here.
    pub(crate) fn start(
        &self,
        disk: &Arc<dyn Disk>,
        index: &Arc<dyn Index>,
        asked: &Asked,
    ) -> Result<Vec<Arc<dyn Tool>>> {
        if self.no_tools {
            return Ok(Vec::new());
        }
        let mut tools: Vec<Arc<dyn Tool>> = vec![Arc::new(Calculator::new())];
        match discover::find(None) {
            Ok(found) => {
                tools.push(Arc::new(Python::new(disk.clone(), found, Limits::default())));
            }
            Err(why) => tracing::info!(%why, "no tool python: see yushan doctor"),
        }
        tools.extend(Files::all(disk).into_iter().map(|tool| Arc::new(tool) as Arc<dyn Tool>));
        let held = Held::new(disk.clone());
        let guard = guard(&self.web_allow)?;
        let mut reader = Reader::new(Fetcher { guard, ..Fetcher::default() }, held.clone());
        if let Some(chromium) = Chromium::find(disk.clone()) {
            reader = reader.with_chromium(chromium);
        }
        let text = |kind: &str, bytes: &[u8]| text_of(kind, bytes);
        tools.extend(reader.with_convert(text).tools());
        tools.push(Arc::new(Convert::new(disk.clone(), convert::Limits::default())));
        let limits = archive::Limits::default;
        tools.push(Arc::new(ArchiveList::new(disk.clone(), limits())));
        tools.push(Arc::new(ArchiveExtract::new(disk.clone(), limits())));
        tools.push(Arc::new(Draw::new(disk.clone())));
        let mut library = Library::new(index.clone(), disk.clone());
        if let Some(model) = &self.embed_model {
            let (name, asked) = (model.clone(), asked.clone());
            library = library.with_embed(model, move |texts| embedded(&asked, &name, texts));
        }
        let kept = Arc::new(Providers::default().with(Arc::new(library)));
        tools.push(Arc::new(Search::new("search_kept", kept, held.clone())));
        let remote = engines()?;
        if remote.is_remote() {
            tools.push(Arc::new(Search::new("search", Arc::new(remote), held)));
        }
        let configured = Configured::read()?;
        if let Some(image) = configured.image {
            let endpoint = Endpoint::new(image).map_err(|why| anyhow!("image: {why}"))?;
            let host = endpoint.host().to_string();
            let image = Image::new(disk.clone(), Arc::new(endpoint), Effect::Egress, host);
            tools.push(Arc::new(image));
        }
        for server in configured.mcp {
            tools.extend(foreign(server, disk));
        }
        Ok(tools)
    }
}

/// What `tools.json` in the data folder says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Configured {
    /// Servers whose tools are ours too.
    #[serde(default)]
    pub(crate) mcp: Vec<ServerConfig>,
    /// An endpoint that draws.
    image: Option<EndpointConfig>,
}

impl Configured {
    pub(crate) fn read() -> Result<Configured> {
        let path = hub::home()?.join("tools.json");
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Configured::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// The tools of another server. The system does without one that does not answer.
fn foreign(config: ServerConfig, disk: &Arc<dyn Disk>) -> Vec<Arc<dyn Tool>> {
    let name = config.name.clone();
    let opened = Bridge::open(config, disk.clone());
    let tools = opened.and_then(|bridge| {
        for pending in bridge.pending()? {
            tracing::warn!(server = name, tool = pending.tool, "it changed: see yushan mcp");
        }
        bridge.tools()
    });
    tools.unwrap_or_else(|error| {
        tracing::warn!(%error, "its tools are not here");
        Vec::new()
    })
}

/// The vectors of texts, from a model of this system.
fn embedded(asked: &Asked, model: &str, texts: &[String]) -> Result<Vec<Vec<f32>>, String> {
    let complete = asked.get().and_then(Weak::upgrade).ok_or("the system is not there yet")?;
    let vectors = texts.iter().map(|text| {
        let request = Request {
            form: Form::Embedding,
            overflow: Overflow::TruncateOldest,
            ..Request::new(model, Prompt::Text(text.clone()))
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        complete.complete(request, Box::new(sender)).map_err(|refusal| refusal.to_string())?;
        for event in receiver {
            match event {
                Event::Embedding(vector) => return Ok(vector),
                Event::Failed(refusal) => return Err(refusal.to_string()),
                _ => {}
            }
        }
        Err(format!("{model} gave no vector"))
    });
    vectors.collect()
}

/// The text of a file of the web that is no page.
fn text_of(kind: &str, bytes: &[u8]) -> Option<Result<String, String>> {
    if kind != Format::Pdf.media_type() {
        return None;
    }
    let (limits, options) = (convert::Limits::default(), convert::Options::default());
    let converted = convert::convert(bytes, Format::Pdf, Format::Text, &options, &limits);
    Some(converted.map_err(|error| error.to_string()).and_then(|converted| {
        String::from_utf8(converted.bytes).map_err(|error| error.to_string())
    }))
}

/// The engines that were configured, in the order in which they are asked.
fn engines() -> Result<Providers> {
    let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut engines = Providers::default();
    let all = [
        (SEARXNG, given(SEARXNG).map(|address| Keyed::searxng(&address))),
        (BRAVE, given(BRAVE).map(|key| Keyed::brave("https://api.search.brave.com", &key))),
        (TAVILY, given(TAVILY).map(|key| Keyed::tavily("https://api.tavily.com", &key))),
    ];
    for (name, engine) in all {
        if let Some(engine) = engine {
            engines = engines.with(engine.map_err(|why| anyhow!("{name}: {why}"))?);
        }
    }
    Ok(engines)
}

/// The tools' file spaces, for the server.
pub(crate) struct Folders(pub(crate) Arc<dyn Disk>);

impl Folders {
    pub(crate) fn open(&self, owner: &str, space: &str) -> Result<Space, Fault> {
        Space::open(self.0.clone(), owner, space).map_err(fault)
    }
}

impl Spaces for Folders {
    fn list(&self, owner: &str, space: &str) -> Result<Vec<FileRef>, Fault> {
        let entries = self.open(owner, space)?.list().map_err(fault)?;
        Ok(entries.into_iter().map(|entry| entry.file).collect())
    }

    fn read(&self, owner: &str, space: &str, path: &str) -> Result<Vec<u8>, Fault> {
        Ok(self.open(owner, space)?.read(path).map_err(fault)?.bytes)
    }

    fn write(
        &self,
        owner: &str,
        space: &str,
        path: &str,
        bytes: &[u8],
        label: &Label,
    ) -> Result<FileRef, Fault> {
        self.open(owner, space)?.write(path, bytes, label).map_err(fault)
    }

    fn is_there(&self, space: &str) -> Result<bool, Fault> {
        yushan_tools::space::is_there(&*self.0, space).map_err(Fault::from)
    }

    fn remove(&self, owner: &str, space: &str, path: &str) -> Result<(), Fault> {
        self.open(owner, space)?.remove(path).map_err(fault)
    }
}

fn fault(error: SpaceError) -> Fault {
    match error {
        SpaceError::Absent { path, .. } => Fault::NotFound { what: "file", name: path },
        SpaceError::Foreign => Fault::NotFound { what: "space", name: "of this name".into() },
        SpaceError::Disk(error) => error.into(),
        error @ (SpaceError::Path { .. } | SpaceError::Full(_) | SpaceError::NothingToUndo) => {
            Fault::Invalid { field: "path".into(), detail: error.to_string() }
        }
    }
}
