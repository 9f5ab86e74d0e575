//! Pages that are made by scripts: opened in a Chromium that is installed, within the rules for fetching.
//!
//! The key decision: a fresh process with a fresh profile for each page, spoken to through two pipes (the DevTools
//! protocol). The page's only way out is [`Proxy`]; the browser itself has none. It and all that it started are killed
//! when the page was read.
//!
//! As root Chromium starts only without its own sandbox: then, and only then, that is turned off.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use url::Url;
use yushan_abi::{Cancel, Disk, FileRef, Invocation, Label};

use super::guard::Guard;
use super::proxy::Proxy;
use crate::space::{Space, SpaceError};

/// Names under which it is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// For a page, from the start of the browser to the picture.
const TIME: Duration = Duration::from_secs(45);
/// For scripts to become quiet after a page was loaded.
const SETTLE: Duration = Duration::from_secs(6);
/// Without a request for so long it is quiet.
const QUIET: Duration = Duration::from_millis(500);
/// Characters of a page's HTML that are read.
const HTML: usize = 4_000_000;
/// Bytes of a message of the browser.
const MESSAGE: u64 = 64 << 20;
/// Pixels of the picture.
const SIZE: (u32, u32) = (1280, 960);

/// Marks what style sheets hide, and gives the page as it is now.
const SCRIPT: &str = "(() => {
  let left = 60000;
  for (const element of document.querySelectorAll('body *')) {
    if (left-- === 0) break;
    const style = getComputedStyle(element);
    if (style.display === 'none' || style.visibility === 'hidden' || parseFloat(style.fontSize) < 2)
      element.setAttribute('hidden', '');
  }
  const html = document.documentElement ? document.documentElement.outerHTML : '';
  return { url: location.href, html: html.slice(0, LIMIT), length: html.length };
})()";

/// A page after its scripts ran.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Where it is in the end.
    pub url: Url,
    /// Its elements.
    pub html: String,
    /// Whether it was longer.
    pub cut: bool,
    /// What a person would see first, as PNG.
    pub screenshot: Option<Vec<u8>>,
}

/// An installed browser.
#[derive(Clone)]
pub struct Chromium {
    program: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Chromium {
    /// The one that is on the `PATH`, if there is one. Pictures go to spaces on `disk`.
    pub fn find(disk: Arc<dyn Disk>) -> Option<Chromium> {
        let path = std::env::var_os("PATH")?;
        let folders: Vec<PathBuf> =
            std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        let mut candidates =
            NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        let program = candidates.find(|program| program.is_file())?;
        Some(Chromium { program, disk })
    }

    /// Where it is installed.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Whether it would run without its own sandbox, because we are root.
    pub fn without_sandbox() -> bool {
        geteuid().is_root()
    }

    /// Opens a page, lets its scripts run until they are quiet, and gives what is there then.
    ///
    /// # Errors
    /// What happened and what to do.
    pub fn render(&self, guard: &Guard, url: &Url, cancel: &Cancel) -> Result<Rendered, String> {
        guard.check(url).map_err(|refused| refused.to_string())?;
        let deadline = Instant::now() + TIME;
        let proxy = Proxy::start(guard.from(url), deadline, cancel)
            .map_err(|error| format!("the browser's proxy cannot start: {error}"))?;
        let mut browser = Browser::start(&self.program, proxy.port, deadline, cancel)?;
        // What the proxy refused explains what the browser only sees as an error.
        let because = |why: String| match proxy.refusals().first() {
            Some(refused) => format!("{why} ({refused})"),
            None => why,
        };
        let (page, screenshot) = browser.open(url).map_err(because)?;
        let place = page["url"].as_str().and_then(|url| Url::parse(url).ok());
        let place = place.filter(|url| matches!(url.scheme(), "http" | "https"));
        let place =
            place.ok_or_else(|| because("the page could not be opened in the browser".into()))?;
        let html = page["html"].as_str().unwrap_or_default().to_string();
        let cut = page["length"].as_u64().is_some_and(|length| length > HTML as u64);
        Ok(Rendered { url: place, html, cut, screenshot })
    }

    /// Writes the picture of a page to the caller's space.
    ///
    /// # Errors
    /// There is no room, or no place: a file is called `screenshots`.
    pub fn keep(
        &self,
        invocation: &Invocation<'_>,
        url: &Url,
        png: &[u8],
        label: &Label,
    ) -> Result<FileRef, SpaceError> {
        let host = url.host_str().unwrap_or("page").chars().take(100);
        let plain = |one: char| if one.is_ascii_alphanumeric() || one == '.' { one } else { '_' };
        let host: String = host.map(plain).collect();
        let digest = Sha256::digest(png);
        let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let space = Space::open(self.disk.clone(), invocation.owner, invocation.space)?;
        space.write(&format!("screenshots/{host}-{short}.png"), png, label)
    }
}

/// A running browser. Dropped, it and all that it started are killed, then its profile is removed.
struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    /// Events that came while an answer was waited for.
    events: VecDeque<Value>,
    next: u64,
    session: Option<String>,
    /// Of the proxy.
    port: u16,
    deadline: Instant,
    cancel: Cancel,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Browser {
    fn start(
        program: &Path,
        port: u16,
        deadline: Instant,
        cancel: &Cancel,
    ) -> Result<Browser, String> {
        let profile = tempfile::Builder::new().prefix("yushan-chromium-").tempdir();
        let profile = profile.map_err(|error| format!("no room for a browser profile: {error}"))?;
        // The shell moves our pipes to where the protocol wants them: 3 to read, 4 to write.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null"]).arg(program);
        command.args(flags()).arg(format!("--user-data-dir={}", profile.path().display()));
        command
            .arg("about:blank")
            .env_clear()
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .current_dir(profile.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child =
            command.spawn().map_err(|error| format!("the browser cannot start: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the browser has no pipes".into());
        };
        let (send, messages) = mpsc::channel();
        thread::spawn(move || listen(output, &send));
        Ok(Browser {
            child,
            input,
            messages,
            events: VecDeque::new(),
            next: 0,
            session: None,
            port,
            deadline,
            cancel: cancel.clone(),
            _profile: profile,
        })
    }

    /// The page's elements and a picture of it.
    fn open(&mut self, url: &Url) -> Result<(Value, Option<Vec<u8>>), String> {
        self.ask("Browser.setDownloadBehavior", json!({"behavior": "deny"}))?;
        let context = json!({
            "proxyServer": format!("http://127.0.0.1:{}", self.port), "proxyBypassList": "<-loopback>",
        });
        let context = self.ask("Target.createBrowserContext", context)?["browserContextId"].take();
        let target = json!({"url": "about:blank", "browserContextId": context});
        let target = self.ask("Target.createTarget", target)?;
        let target = target["targetId"].clone();
        let session =
            self.ask("Target.attachToTarget", json!({"targetId": target, "flatten": true}))?;
        self.session = session["sessionId"].as_str().map(String::from);
        let (width, height) = SIZE;
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", metrics)?;
        self.ask("Page.enable", json!({}))?;
        self.ask("Network.enable", json!({}))?;
        let gone = self.ask("Page.navigate", json!({"url": url.as_str()}))?;
        if let Some(error) = gone["errorText"].as_str().filter(|error| !error.is_empty()) {
            return Err(format!("the browser could not open the page: {error}"));
        }
        self.settle()?;
        let world = json!({"frameId": gone["frameId"], "worldName": "reader"});
        let world = self.ask("Page.createIsolatedWorld", world)?;
        let read = json!({
            "expression": SCRIPT.replace("LIMIT", &HTML.to_string()),
            "contextId": world["executionContextId"],
            "returnByValue": true,
        });
        let mut read = self.ask("Runtime.evaluate", read)?;
        let page = read["result"]["value"].take();
        if !page.is_object() {
            return Err("the page could not be read in the browser; try without scripts".into());
        }
        let picture = self.ask("Page.captureScreenshot", json!({"format": "png"})).ok();
        let picture = picture.and_then(|picture| STANDARD.decode(picture["data"].as_str()?).ok());
        Ok((page, picture))
    }

    /// Waits until the page is loaded and asks for nothing more, or for as long as that is waited for.
    fn settle(&mut self) -> Result<(), String> {
        let mut loaded = None;
        let mut open = 0_i64;
        let mut last = Instant::now();
        loop {
            let now = Instant::now();
            let settled = loaded
                .is_some_and(|at: Instant| (open <= 0 && now > last + QUIET) || now > at + SETTLE);
            // A page that loads for ever is read as far as it is.
            if settled || self.deadline.saturating_duration_since(now) < TIME / 3 {
                return Ok(());
            }
            let Some(event) = self.event(QUIET / 5)? else { continue };
            match event["method"].as_str().unwrap_or_default() {
                "Page.loadEventFired" => loaded = Some(Instant::now()),
                "Network.requestWillBeSent" => {
                    open += i64::from(event["params"]["redirectResponse"].is_null())
                }
                "Network.loadingFinished" | "Network.loadingFailed" => open -= 1,
                "Page.javascriptDialogOpening" => {
                    self.ask("Page.handleJavaScriptDialog", json!({"accept": false}))?;
                }
                _ => continue,
            }
            last = Instant::now();
        }
    }

    fn event(&mut self, wait: Duration) -> Result<Option<Value>, String> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        self.receive(wait)
    }

    fn receive(&mut self, wait: Duration) -> Result<Option<Value>, String> {
        if self.cancel.is_cancelled() {
            return Err("stopped: nobody waits for it any more".into());
        }
        if Instant::now() > self.deadline {
            return Err(format!("the browser did not finish within {} seconds", TIME.as_secs()));
        }
        match self.messages.recv_timeout(wait) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                Err("the browser ended by itself; try again, or without scripts".into())
            }
        }
    }

    /// Gives an order and waits for its answer.
    fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.next += 1;
        let mut order = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        let bytes = [order.to_string().as_bytes(), b"\0"].concat();
        let sent = self.input.write_all(&bytes).and_then(|()| self.input.flush());
        sent.map_err(|error| format!("the browser does not listen: {error}"))?;
        loop {
            let Some(mut message) = self.receive(QUIET / 5)? else { continue };
            if message["id"].as_u64() != Some(self.next) {
                if message["method"].is_string() && self.events.len() < 10_000 {
                    self.events.push_back(message);
                }
                continue;
            }
            if let Some(error) = message["error"]["message"].as_str() {
                return Err(format!("the browser refused {method}: {error}"));
            }
            return Ok(message["result"].take());
        }
    }
}

/// Hands messages on until the browser ends or one is too long.
fn listen(output: ChildStdout, send: &mpsc::Sender<Value>) {
    let mut reader = BufReader::new(output);
    loop {
        let mut message = Vec::new();
        let read = reader.by_ref().take(MESSAGE).read_until(0, &mut message);
        if !matches!(read, Ok(1..)) || message.pop() != Some(0) {
            return;
        }
        let Ok(message) = serde_json::from_slice(&message) else { return };
        if send.send(message).is_err() {
            return;
        }
    }
}

/// How it is started. It can look up no name, and what it would ask by itself (accounts, updates) goes to a proxy that is
/// not there; the page gets a context of its own with ours.
fn flags() -> Vec<String> {
    let mut flags = vec![
        "--proxy-server=http://127.0.0.1:1".into(),
        "--proxy-bypass-list=<-loopback>".into(),
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1".into(),
        "--force-webrtc-ip-handling-policy=disable_non_proxied_udp".into(),
        format!("--window-size={},{}", SIZE.0, SIZE.1),
    ];
    let plain = [
        "headless=new",
        "remote-debugging-pipe",
        "disable-quic",
        "disable-background-networking",
        "disable-sync",
        "disable-component-update",
        "disable-default-apps",
        "disable-extensions",
        "disable-domain-reliability",
        "disable-client-side-phishing-detection",
        "disable-breakpad",
        "disable-crash-reporter",
        "disable-gpu",
        "disable-dev-shm-usage",
        "dns-prefetch-disable",
        "no-first-run",
        "no-default-browser-check",
        "no-pings",
        "mute-audio",
        "hide-scrollbars",
        "password-store=basic",
        "use-mock-keychain",
        "deny-permission-prompts",
        "disable-features=AimEnabled,AimServerEligibilityEnabled,AiModeOmniboxEntryPoint,AimEligibility,PreconnectToSearch,Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider,AsyncDns,DnsOverHttps",
    ];
    flags.extend(plain.iter().map(|flag| format!("--{flag}")));
    if Chromium::without_sandbox() {
        flags.push("--no-sandbox".into());
    }
    flags
}

#[cfg(test)]
#[path = "chromium_tests.rs"]
mod tests;
