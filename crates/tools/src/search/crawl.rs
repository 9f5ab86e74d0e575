//! Reads given sites into the library: page by page, within limits, as `robots.txt` allows.
//!
//! The key decision: breadth first and on one host only. Links to other hosts are never followed, so a crawl ends
//! where whoever asked for it expects, whatever the pages say.

use std::collections::{HashMap, HashSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use url::Url;
use yushan_abi::{Cancel, Label, Readers, Sources};

use super::library::Library;
use super::robots::Robots;
use crate::web::decode::decode;
use crate::web::fetch::{Ask, Failure, Fetched, Fetcher};
use crate::web::page::{NotAPage, read};

/// The name that `robots.txt` knows us by.
const NAME: &str = "Yushan";
/// Addresses that wait, for each page that is wanted.
const WAITING: usize = 50;
/// Why a page is left out that says so.
const NOINDEX: &str = "the page asks not to be indexed";

/// How far a crawl goes.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Pages that are fetched.
    pub pages: usize,
    /// Links from the start; 0: the start alone.
    pub depth: usize,
    /// Between two requests.
    pub pause: Duration,
}

impl Default for Reach {
    fn default() -> Reach {
        Reach { pages: 100, depth: 3, pause: Duration::from_millis(500) }
    }
}

/// What came of a crawl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Addresses that are in the library now.
    pub added: Vec<String>,
    /// Addresses that are not, and why.
    pub skipped: Vec<(String, String)>,
    /// Addresses that were not visited because of the limits.
    pub left: usize,
}

/// A crawl.
pub struct Crawl<'a> {
    /// Where one may go, and what a request may take.
    pub fetcher: &'a Fetcher,
    /// Where pages go.
    pub library: &'a Library,
    /// Whose they are; empty: everybody's.
    pub owner: &'a str,
    /// How far it goes.
    pub reach: Reach,
    /// Set when nobody waits any more: what was added stays.
    pub cancel: &'a Cancel,
    /// Hears of every page that was visited; of one that was not added, why.
    pub on_page: &'a (dyn Fn(&Url, Option<&str>) + Sync),
}

impl Crawl<'_> {
    /// Reads a site from its start.
    ///
    /// # Errors
    /// If the start cannot be read, or the library cannot be written.
    pub fn run(&self, start: &str) -> Result<Report, String> {
        let start = self.fetcher.guard.parse(start).map_err(|refused| refused.to_string())?;
        let mut report = Report::default();
        let mut robots = HashMap::new();
        let mut seen = HashSet::from([without_fragment(&start)]);
        let mut waiting = VecDeque::from([(without_fragment(&start), 0)]);
        let mut fetched = 0;
        while let Some((url, depth)) = waiting.pop_front() {
            if fetched >= self.reach.pages {
                report.left = waiting.len() + 1;
                break;
            }
            if self.cancel.is_cancelled() {
                return Err("stopped: nobody waits for it any more".into());
            }
            let first = fetched == 0;
            fetched += 1;
            match self.visit(&url, &start, &mut robots) {
                Ok(Visited { place, links, added }) => {
                    seen.insert(place.clone());
                    (self.on_page)(&place, (!added).then_some(NOINDEX));
                    if added {
                        report.added.push(place.to_string());
                    } else {
                        report.skipped.push((place.to_string(), NOINDEX.into()));
                    }
                    for link in links.into_iter().filter(|_| depth < self.reach.depth) {
                        let wanted = same_place(&link, &start) && !seen.contains(&link);
                        if wanted && waiting.len() < WAITING.saturating_mul(self.reach.pages) {
                            seen.insert(link.clone());
                            waiting.push_back((link, depth + 1));
                        }
                    }
                }
                Err(Trouble::Library(why)) => {
                    return Err(format!("the library cannot be written: {why}"));
                }
                Err(Trouble::Page(why)) if first => return Err(format!("{url}: {why}")),
                Err(Trouble::Page(why)) => {
                    (self.on_page)(&url, Some(&why));
                    report.skipped.push((url.to_string(), why));
                }
            }
        }
        Ok(report)
    }

    fn visit(
        &self,
        url: &Url,
        start: &Url,
        robots: &mut HashMap<String, Robots>,
    ) -> Result<Visited, Trouble> {
        self.allowed(url, robots)?;
        self.pause()?;
        let fetched = self.fetcher.fetch(page(url.clone()), self.cancel);
        let fetched = fetched.map_err(|failure| Trouble::Page(failure.to_string()))?;
        if !same_place(&fetched.url, start) {
            return Err(Trouble::Page("it redirects to another host".into()));
        }
        if fetched.url != *url {
            self.allowed(&fetched.url, robots)?;
        }
        self.add(&fetched)
    }

    fn add(&self, fetched: &Fetched) -> Result<Visited, Trouble> {
        let Fetched { url, body, media_type, charset, private, .. } = fetched;
        let taken = |whole| read(body, media_type, charset.as_deref(), url, whole);
        let refused = |why: NotAPage| Trouble::Page(why.to_string());
        let (page, whole) = (taken(false).map_err(refused)?, taken(true).map_err(refused)?);
        let place = without_fragment(url);
        let says =
            |word: &str| whole.robots.split(',').any(|said| said.trim().eq_ignore_ascii_case(word));
        let (noindex, nofollow) =
            (says("noindex") || says("none"), says("nofollow") || says("none"));
        if !noindex {
            let mut label = Label::of(Sources::WEB);
            label.origins.extend(url.host_str().map(String::from));
            if *private && !self.owner.is_empty() {
                label.readers = Readers::one(self.owner);
            }
            let added = self.library.add(self.owner, place.as_str(), &page, &label);
            added.map_err(Trouble::Library)?;
        }
        let links =
            whole.links.iter().filter(|_| !nofollow).filter_map(|link| Url::parse(&link.url).ok());
        let links = links.map(|link| without_fragment(&link)).collect();
        Ok(Visited { place, links, added: !noindex })
    }

    /// Whether `robots.txt` of the place allows it. None there: all is allowed. Unreachable: nothing is (RFC 9309, 2.3.1).
    fn allowed(&self, url: &Url, robots: &mut HashMap<String, Robots>) -> Result<(), Trouble> {
        let origin = url.origin().ascii_serialization();
        if !robots.contains_key(&origin) {
            let place =
                url.join("/robots.txt").map_err(|error| Trouble::Page(error.to_string()))?;
            let rules = match self.fetcher.fetch(page(place), self.cancel) {
                Ok(fetched) => decode(&fetched.body, Some("utf-8")).0,
                Err(Failure::Status(400..=499, _)) => String::new(),
                Err(_) => "User-agent: *\nDisallow: /".into(),
            };
            robots.insert(origin.clone(), Robots::parse(&rules, NAME));
        }
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let allows = robots
            .get(&origin)
            .is_some_and(|robots| robots.allows(&format!("{}{query}", url.path())));
        if allows { Ok(()) } else { Err(Trouble::Page("robots.txt does not allow it".into())) }
    }

    fn pause(&self) -> Result<(), Trouble> {
        let until = Instant::now() + self.reach.pause;
        while let Some(left) =
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            if self.cancel.is_cancelled() {
                return Err(Trouble::Page(Failure::Cancelled.to_string()));
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
        Ok(())
    }
}

struct Visited {
    place: Url,
    links: Vec<Url>,
    added: bool,
}

enum Trouble {
    Page(String),
    Library(String),
}

fn page(url: Url) -> Ask {
    Ask { stays: true, ..Ask::page(url) }
}

fn without_fragment(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_fragment(None);
    url
}

fn same_place(url: &Url, start: &Url) -> bool {
    url.host_str() == start.host_str()
        && url.port_or_known_default() == start.port_or_known_default()
        || url.host_str() == start.host_str() && url.port().is_none() && start.port().is_none()
}
