//! `library`: what `search_kept` finds: files of this machine, and sites that were read in.
//!
//! The key decision: it works on the data folder itself, beside a running system, so a long crawl holds nothing up; what
//! was added stays when it is ended, and is replaced when it is done again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use yushan_abi::{Cancel, Disk, Index, Label, Sources};
use yushan_tools::search::crawl::{Crawl, Reach};
use yushan_tools::search::file;
use yushan_tools::search::library::Library as Kept;
use yushan_tools::web::fetch::Fetcher;

use crate::accounts::open_disk;
use crate::drivers::guard;
use crate::exit::{BadFile, BadUsage};
use crate::inspect::visible;
use crate::interrupt::Interrupt;
use crate::system::Where;

/// Texts that a model is given at once.
const BATCH: usize = 64;
/// How often it is looked whether Ctrl-C was pressed.
const LOOK: Duration = Duration::from_millis(50);

/// Fill and look into the index of files and sites that assistants search with search_kept
#[derive(clap::Args)]
pub(crate) struct Library {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Read in files, folders and sites, in place of what was read under the same name
    Add(Add),
    /// Show the names of what is in it
    List(Whose),
    /// Take something out
    Remove {
        /// As list shows it; a file by its path from here too
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Search it, as an assistant would
    Search {
        /// What is looked for, in plain words
        #[arg(required = true)]
        words: Vec<String>,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        meaning: Meaning,
    },
}

#[derive(clap::Args)]
struct Whose {
    /// The user whose it is, by the name of his keys [default: everybody on this system]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    user: String,
}

/// Whether meanings are compared too, and by which model.
#[derive(clap::Args)]
struct Meaning {
    /// Compare meanings too: the running system's model that gives the vectors. A system finds by meaning when it
    /// was started with the same --embed-model
    #[arg(long, value_name = "MODEL")]
    embed_model: Option<String>,
    #[command(flatten)]
    at: Where,
}

#[derive(clap::Args)]
struct Add {
    /// Files, folders, and addresses of sites to start from
    #[arg(required = true)]
    what: Vec<String>,
    /// Pages of a site to read, at most
    #[arg(long, value_name = "N", default_value_t = Reach::default().pages)]
    pages: usize,
    /// Links to follow from the start; 0: the start alone
    #[arg(long, value_name = "N", default_value_t = Reach::default().depth)]
    depth: usize,
    /// Milliseconds between two requests
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pause: u64,
    /// Reach this host on this machine or network, for example 127.0.0.1:8000
    #[arg(long, value_name = "HOST:PORT")]
    web_allow: Vec<String>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    meaning: Meaning,
}

impl Library {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Add(add) => add.run(),
            What::List(Whose { user }) => {
                let names = open()?.names(&user).map_err(|why| anyhow!(why))?;
                if names.is_empty() {
                    eprintln!("There is nothing in it yet: yushan library add WHAT");
                }
                names.iter().for_each(|name| println!("{}", visible(name)));
                Ok(())
            }
            What::Remove { names, whose: Whose { user } } => {
                let library = open()?;
                for name in names {
                    let remove = |name: &str| library.remove(&user, name);
                    let whole = std::fs::canonicalize(&name)
                        .or_else(|_| std::path::absolute(&name))?
                        .display()
                        .to_string();
                    let gone = remove(&name).and_then(|gone| Ok(gone || remove(&whole)?));
                    if !gone.map_err(|why| anyhow!(why))? {
                        return Err(BadUsage(format!("{name:?} is not in it: see list")).into());
                    }
                }
                Ok(())
            }
            What::Search { words, whose: Whose { user }, meaning } => {
                let found = meaning.library()?.find(&user, &words.join(" "), 10);
                let found = found.map_err(|why| anyhow!(why))?;
                if found.is_empty() {
                    eprintln!("Nothing was found.");
                }
                for found in found {
                    println!("{}  {}", visible(&found.title), visible(&found.url));
                    println!("    {}", visible(&found.excerpt).replace('\n', "\n    "));
                }
                Ok(())
            }
        }
    }
}

fn open() -> Result<Kept> {
    let sqlite = Arc::new(open_disk()?);
    let (index, disk): (Arc<dyn Index>, Arc<dyn Disk>) = (sqlite.clone(), sqlite);
    Ok(Kept::new(index, disk))
}

impl Meaning {
    fn library(self) -> Result<Kept> {
        let library = open()?;
        let Some(model) = self.embed_model else { return Ok(library) };
        let (at, name) = (self.at, model.clone());
        Ok(library.with_embed(&model, move |texts| {
            embedded(&at, &name, texts).map_err(|error| format!("{error:#}"))
        }))
    }
}

/// Vectors from the running system.
fn embedded(at: &Where, model: &str, texts: &[String]) -> Result<Vec<Vec<f32>>> {
    let mut vectors = Vec::new();
    for texts in texts.chunks(BATCH) {
        let order = json!({ "model": model, "input": texts });
        let answer = at.ask("/v1/embeddings", Some(&order))?;
        let data = answer["data"].as_array().context("no vectors came")?;
        for item in data {
            vectors.push(serde_json::from_value(item["embedding"].clone())?);
        }
    }
    Ok(vectors)
}

impl Add {
    fn run(self) -> Result<()> {
        let Add { what, pages, depth, pause, web_allow, whose: Whose { user }, meaning } = self;
        let reach = Reach { pages, depth, pause: Duration::from_millis(pause) };
        let fetcher = Fetcher { guard: guard(&web_allow)?, ..Fetcher::default() };
        let library = meaning.library()?;
        let interrupt = Interrupt::catch()?;
        let cancel = Cancel::default();
        let (mut added, mut failed) = (0, 0);
        for what in &what {
            if interrupt.is_pressed() {
                break;
            }
            let done = if what.starts_with("http://") || what.starts_with("https://") {
                let crawl = Crawl {
                    fetcher: &fetcher,
                    library: &library,
                    owner: &user,
                    reach,
                    cancel: &cancel,
                    on_page: &|url, why| said(url.as_str(), why),
                };
                crawled(&crawl, what, &interrupt)
            } else {
                files(&library, &user, Path::new(what), &interrupt)
            };
            let Count { added: more, failed: not } = done?;
            (added, failed) = (added + more, failed + not);
        }
        eprintln!("{added} added, {failed} left out");
        if interrupt.is_pressed() {
            bail!("ended by Ctrl-C; what was added stays, the same command adds the rest");
        }
        if added == 0 {
            return Err(BadFile("nothing was added".into()).into());
        }
        Ok(())
    }
}

/// What became of files or pages.
#[derive(Default)]
struct Count {
    added: usize,
    failed: usize,
}

fn said(name: &str, why: Option<&str>) {
    match why {
        None => println!("{}", visible(name)),
        Some(why) => eprintln!("left out: {}: {}", visible(name), visible(why)),
    }
}

fn crawled(crawl: &Crawl<'_>, start: &str, interrupt: &Interrupt) -> Result<Count> {
    let done = std::thread::scope(|scope| {
        let crawler = scope.spawn(|| crawl.run(start));
        while !crawler.is_finished() {
            if interrupt.is_pressed() {
                crawl.cancel.cancel();
            }
            std::thread::sleep(LOOK);
        }
        crawler.join()
    });
    match done {
        Ok(Ok(report)) => {
            if report.left > 0 {
                let (left, pages) = (report.left, crawl.reach.pages);
                eprintln!("{left} addresses were not visited: --pages is {pages}");
            }
            Ok(Count { added: report.added.len(), failed: report.skipped.len() })
        }
        Ok(Err(_)) if interrupt.is_pressed() => Ok(Count::default()),
        Ok(Err(why)) => bail!("{}", visible(&why)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn files(library: &Kept, user: &str, path: &Path, interrupt: &Interrupt) -> Result<Count> {
    let why = || path.display().to_string();
    let mut count = Count::default();
    // Two files of one name in two folders are two.
    let path = &std::fs::canonicalize(path).map_err(|e| BadFile(format!("{}: {e}", why())))?;
    let is_folder = path.is_dir();
    for file in if is_folder { below(path).with_context(why)? } else { vec![path.into()] } {
        if interrupt.is_pressed() {
            break;
        }
        match added(library, user, &file) {
            Ok(()) => count.added += 1,
            Err(Trouble::Library(why)) => bail!("the library cannot be written: {why}"),
            Err(Trouble::File(why)) => {
                said(&file.display().to_string(), Some(&why));
                count.failed += 1;
            }
        }
    }
    Ok(count)
}

enum Trouble {
    File(String),
    Library(String),
}

fn added(library: &Kept, user: &str, path: &Path) -> Result<(), Trouble> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| Trouble::File(error.to_string()))?;
    let page = file::page(&name, &bytes).map_err(Trouble::File)?;
    let label = Label::of(Sources::FILE).for_reader(user);
    library.add(user, &name, &page, &label).map_err(Trouble::Library)?;
    said(&name, None);
    Ok(())
}

/// The files of a folder that can be read, in order; nothing hidden, and no link is followed.
fn below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        match () {
            () if name.starts_with('.') => {}
            () if kind.is_dir() => files.extend(below(&entry.path())?),
            () if kind.is_file() && file::is_readable(&name) => files.push(entry.path()),
            () => {}
        }
    }
    Ok(files)
}
