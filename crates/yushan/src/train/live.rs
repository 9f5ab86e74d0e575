//! A run while it goes on: a bar in a terminal, lines elsewhere; the curves of a run that somebody else drives.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::ProgressBar;
use yushan_train::pretrain::Watch;
use yushan_train::recipe::Settings;
use yushan_train::report::{self, EventKind, Line, Run};

use crate::interrupt::Interrupt;
use crate::progress;

/// Where stderr is no terminal, a line comes this often.
const PAUSE: Duration = Duration::from_secs(10);

/// What is seen of a run in the terminal that it was started in.
pub(crate) struct Bar<'a> {
    interrupt: &'a Interrupt,
    bar: ProgressBar,
    per_hour: f64,
    currency: String,
    steps: u64,
    /// Where this start began, and when.
    began: (u64, Instant),
    printed: Option<Instant>,
}

impl Bar<'_> {
    pub(crate) fn new(interrupt: &Interrupt) -> Bar<'_> {
        Bar {
            interrupt,
            bar: progress::of_steps(0),
            per_hour: 0.0,
            currency: String::new(),
            steps: 0,
            began: (0, Instant::now()),
            printed: None,
        }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Above the bar, or as a line of its own.
    fn say(&self, text: &str) {
        match self.bar.is_hidden() {
            true => eprintln!("{text}"),
            false => self.bar.println(text),
        }
    }

    /// `loss 3.214  bpb 1.402  41.2k tok/s  63 % of peak  12 min left  5.1 Wh  0.03 USD`.
    fn figures(&self, line: &Line) -> String {
        let mut text = String::new();
        let mut add = |name: &str, value: Option<f64>, digits: usize, unit: &str| {
            if let Some(value) = value {
                text.push_str(&format!("{name}{value:.digits$}{unit}  "));
            }
        };
        add("loss ", line.loss, 4, "");
        add("bpb ", line.bpb, 3, "");
        add("", line.tokens_per_s, 0, " tok/s");
        add("", line.peak_share.map(|share| 100.0 * share), 0, " % of peak");
        let (first, began) = self.began;
        let done = line.step.saturating_sub(first).max(1);
        let left = began.elapsed().as_secs_f64() / done as f64
            * self.steps.saturating_sub(line.step) as f64;
        text.push_str(&duration(left));
        text.push_str(" left");
        if let Some(joules) = line.joules {
            text.push_str(&format!("  {:.1} Wh", joules / 3600.0));
        }
        if let (Some(seconds), true) = (line.seconds, self.per_hour > 0.0) {
            let cost = seconds / 3600.0 * self.per_hour;
            text.push_str(&format!("  {cost:.2} {}", self.currency));
        }
        text
    }
}

impl Watch for Bar<'_> {
    fn began(&mut self, settings: &Settings, step: u64) {
        self.steps = settings.schedule.steps;
        (self.per_hour, self.currency) = (settings.per_hour, settings.currency.clone());
        self.began = (step, Instant::now());
        self.bar.set_length(self.steps);
        self.bar.set_position(step);
        let shape = &settings.shape;
        self.say(&format!(
            "{}: {} parameters, {} layers of {}, {} tokens in {} steps",
            settings.name,
            crate::figures::count(shape.parameters() as u64),
            shape.layers,
            shape.dim,
            crate::figures::count(settings.tokens()),
            self.steps
        ));
    }

    fn line(&mut self, line: &Line) {
        if let Some(event) = &line.event {
            self.say(&format!("step {}: {}", line.step, event.words()));
        }
        for (name, figures) in &line.eval {
            if let (Some(bpb), Some(loss)) = (figures.bpb, figures.loss) {
                self.say(&format!(
                    "step {}: {name}: {bpb:.4} bits per byte, loss {loss:.4}",
                    line.step
                ));
            }
        }
        for sample in &line.sample {
            let text = crate::inspect::visible(&sample.text);
            self.say(&format!("step {}: {:?} {text}", line.step, sample.prompt));
        }
        if line.loss.is_none() {
            return;
        }
        self.bar.set_position(line.step);
        let figures = self.figures(line);
        if self.bar.is_hidden() {
            if self.printed.is_none_or(|when| when.elapsed() > PAUSE) || line.step == self.steps {
                self.printed = Some(Instant::now());
                eprintln!("step {} of {}  {figures}", line.step, self.steps);
            }
        } else {
            self.bar.set_message(figures);
        }
    }

    fn stop(&mut self) -> bool {
        self.interrupt.is_pressed()
    }
}

/// `1 h 12 min`, `3 min 20 s`, `14 s`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Shows a run until it ends, or once, and writes its report.
pub(super) fn watch(folder: &Path, once: bool) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    let terminal = std::io::stdout().is_terminal();
    loop {
        let run = Run::read(folder)?;
        let (width, height) = match terminal {
            true => ratatui::crossterm::terminal::size()
                .map_or((100, 30), |(w, h)| (w.into(), h.into())),
            false => (100, 30),
        };
        let screen = report::watch::screen(&run, width, height);
        let mut out = std::io::stdout().lock();
        // Cleared and drawn in one write, so that it does not flicker.
        let clear = if terminal && !once { "\x1b[2J\x1b[H" } else { "" };
        write!(out, "{clear}{screen}")?;
        out.flush()?;
        let ended = run.log.lines.iter().rev().find_map(|line| line.event.as_ref());
        let over = ended.is_some_and(|event| event.kind == EventKind::Finished);
        if once || over || !terminal || interrupt.is_pressed() {
            report::card(&[run])?.write(folder)?;
            eprintln!("{}", folder.join("report.html").display());
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// How often a run is looked at.
const LOOK: Duration = Duration::from_secs(1);
