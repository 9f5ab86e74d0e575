//! `top`: the process table of a running system, live.
//!
//! The key decision: a [`View`] is what is known after a look, and lines are a function of it; the terminal,
//! the clock and the network are in `watch` alone. A process is chosen by its pid, so that the
//! choice stays with it while the table moves.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::{DefaultTerminal, Frame};
use serde_json::json;
use yushan_abi::{Integrity, Readers};
use yushan_kernel::{Pid, Process};

use crate::exit;
use crate::system::{Where, class, plain, state};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
const KEYS: &str = "q quit   ↑ ↓ choose   k kill   s stop or continue";

/// Watch the processes of a running system
#[derive(clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    at: Where,
}

impl Top {
    pub(crate) fn run(self) -> Result<()> {
        let mut view = View::default();
        view.look(self.at.processes()?, 0.0);
        if !std::io::stdout().is_terminal() {
            let text: String = view.lines().iter().map(|line| format!("{line}\n")).collect();
            return Ok(std::io::stdout().write_all(text.as_bytes())?);
        }
        // This also restores the terminal when the program panics.
        let mut terminal = ratatui::try_init()?;
        let done = watch(&self.at, &mut view, &mut terminal);
        ratatui::restore();
        done
    }
}

fn watch(at: &Where, view: &mut View, terminal: &mut DefaultTerminal) -> Result<()> {
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        let pressed = match event::poll(EVERY.saturating_sub(looked.elapsed()))? {
            true => event::read()?.as_key_event().and_then(|key| view.press(key)),
            false => None,
        };
        match pressed {
            None => {}
            Some(Order::Quit) => return Ok(()),
            Some(Order::Signal(pid, signal)) => {
                view.note = match at.order(pid.0, json!({ "signal": signal })) {
                    Ok(()) => format!("{signal} {pid}"),
                    Err(error) => exit::line(&error),
                };
            }
        }
        if looked.elapsed() >= EVERY {
            match at.processes() {
                Ok(processes) => view.look(processes, looked.elapsed().as_secs_f64()),
                Err(error) => view.note = exit::line(&error),
            }
            looked = Instant::now();
        }
    }
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Quit,
    Signal(Pid, &'static str),
}

/// What is known after a look.
#[derive(Default)]
struct View {
    /// Those that are not over.
    alive: Vec<Process>,
    /// Tokens that each process had written, those that are over too.
    written: BTreeMap<Pid, usize>,
    /// Tokens a second since the look before.
    rates: BTreeMap<Pid, f64>,
    chosen: Option<Pid>,
    /// What became of the last order, or why the system does not answer.
    note: String,
}

impl View {
    /// Takes in the table, `seconds` after the last one.
    fn look(&mut self, processes: Vec<Process>, seconds: f64) {
        let written = processes.iter().map(|one| (one.pid, one.counts.generated)).collect();
        let before = std::mem::replace(&mut self.written, written);
        self.rates = match seconds > 0.0 {
            true => self
                .written
                .iter()
                .map(|(&pid, &now)| (pid, now - before.get(&pid).copied().unwrap_or(0).min(now)))
                .map(|(pid, tokens)| (pid, tokens as f64 / seconds))
                .collect(),
            false => BTreeMap::new(),
        };
        self.alive = processes;
        self.alive.retain(|process| process.exit.is_none());
        if !self.alive.iter().any(|process| Some(process.pid) == self.chosen) {
            self.chosen = self.alive.first().map(|process| process.pid);
        }
    }

    fn press(&mut self, key: KeyEvent) -> Option<Order> {
        if key.kind == KeyEventKind::Release {
            return None;
        }
        let at = self.alive.iter().position(|process| Some(process.pid) == self.chosen);
        let last = self.alive.len().saturating_sub(1);
        let to = match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Some(Order::Quit);
            }
            KeyCode::Char('q') | KeyCode::Esc => return Some(Order::Quit),
            KeyCode::Char('k') => return at.map(|at| Order::Signal(self.alive[at].pid, "kill")),
            KeyCode::Char('s') => {
                let process = &self.alive[at?];
                let signal = if process.stopped { "continue" } else { "stop" };
                return Some(Order::Signal(process.pid, signal));
            }
            KeyCode::Up => at?.saturating_sub(1),
            KeyCode::Down => (at? + 1).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            _ => return None,
        };
        self.chosen = self.alive.get(to).map(|process| process.pid);
        None
    }

    /// Two lines of heading, then one a process.
    fn lines(&self) -> Vec<Line<'static>> {
        let total: f64 = self.rates.values().fold(0.0, |sum, rate| sum + rate);
        let alive = self.alive.len();
        let head = format!("{alive} alive   {total:.1} tokens/s   {}", plain(&self.note));
        let names = format!(
            "{:>6} {:>6} {:<9} {:<11} {:>7} {:>7} {:>7} {:>8} {:>6} {:>8}  {:<16} {:<20} {}",
            "PID",
            "PARENT",
            "STATE",
            "CLASS",
            "PROMPT",
            "CACHED",
            "WRITTEN",
            "TOKENS/S",
            "PAGES",
            "COST",
            "MODEL",
            "LABEL",
            "TITLE"
        );
        let mut lines = vec![
            Line::styled(head.trim_end().to_string(), Style::new().bold()),
            Line::styled(names, Style::new().dim()),
        ];
        lines.extend(self.alive.iter().map(|process| self.line(process)));
        lines
    }

    fn line(&self, process: &Process) -> Line<'static> {
        let spawn = &process.spawn;
        let parent = spawn.parent.map_or_else(String::new, |parent| parent.to_string());
        let rate = self.rates.get(&process.pid).map_or("-".into(), |rate| format!("{rate:.1}"));
        let counts = process.counts;
        let text = format!(
            "{:>6} {parent:>6} {:<9} {:<11} {:>7} {:>7} {:>7} {rate:>8} {:>6} {:>8.4}  {:<16} {:<20} {}",
            process.pid.0,
            state(process),
            class(process),
            counts.prompt,
            counts.cached,
            counts.generated,
            process.pages,
            process.cost(0, 0) as f64 / 1e6,
            plain(&spawn.model),
            label(process),
            plain(&spawn.title),
        );
        let style = match (spawn.label.integrity(), process.stopped) {
            (_, true) => Style::new().dim(),
            (Integrity::Untrusted, _) => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        };
        let chosen = Some(process.pid) == self.chosen;
        Line::styled(text, if chosen { style.reversed() } else { style })
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let parts = [Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)];
        let [head, body, foot] = Layout::vertical(parts).areas(frame.area());
        let mut lines = self.lines();
        let rows = lines.split_off(2);
        // The chosen one is always in sight.
        let at = self.alive.iter().position(|process| Some(process.pid) == self.chosen);
        let skip = (at.unwrap_or(0) + 1).saturating_sub(body.height.into());
        frame.render_widget(Text::from(lines), head);
        frame.render_widget(rows.into_iter().skip(skip).collect::<Text<'_>>(), body);
        frame.render_widget(Line::from(KEYS).dim(), foot);
    }
}

/// The worst integrity in a process's context, and who may read it.
fn label(process: &Process) -> String {
    let label = &process.spawn.label;
    let integrity = match label.integrity() {
        Integrity::System => "system",
        Integrity::User => "user",
        Integrity::Tool => "tool",
        Integrity::Untrusted => "untrusted",
    };
    let readers = match &label.readers {
        Readers::Public => "public".to_string(),
        Readers::Only(readers) if readers.is_empty() => "nobody".to_string(),
        Readers::Only(readers) => {
            // Whoever needs no key has no name.
            let names = readers.iter().map(|name| if name.is_empty() { "local" } else { name });
            plain(&names.collect::<Vec<_>>().join(","))
        }
    };
    format!("{integrity}/{readers}")
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use yushan_abi::{Class, Counts, Label, Sources};
    use yushan_kernel::{Budget, Exit, Price, Spawn, Spent, State};

    use super::*;

    fn process(pid: u64, written: usize, title: &str) -> Process {
        Process {
            pid: Pid(pid),
            spawn: Spawn {
                parent: (pid > 1).then_some(Pid(1)),
                title: title.into(),
                model: "small".into(),
                tenant: "ann".into(),
                class: Class::Agent,
                weight: 1,
                budget: Budget::default(),
                price: Price::default(),
                spent: Spent::default(),
                label: Label::of(Sources::USER).for_reader("ann"),
                prompt: 9,
            },
            state: State::Ready,
            stopped: false,
            pending: 0,
            counts: Counts { prompt: 9, cached: 4, generated: written, ..Counts::default() },
            spent: 0,
            meter: Default::default(),
            calls: 0,
            mailbox: Default::default(),
            times: (0, None, None),
            exit: None,
            pages: 3,
        }
    }

    fn view() -> View {
        let mut view = View::default();
        view.look(vec![process(1, 10, "one"), process(2, 4, "two")], 0.0);
        view
    }

    fn text(view: &View) -> Vec<String> {
        view.lines().iter().map(|line| line.to_string()).collect()
    }

    fn press(view: &mut View, code: KeyCode) -> Option<Order> {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn a_look_becomes_lines() {
        let mut view = view();
        assert_eq!(text(&view)[0], "2 alive   0.0 tokens/s");
        let mut web = process(3, 6, "steer\x1b[2J");
        web.spawn.label = Label::of(Sources::WEB);
        web.stopped = true;
        let mut near = process(4, 0, "four");
        near.spawn.label = Label::of(Sources::MODEL).for_reader("");
        let mut over = process(2, 8, "two");
        over.exit = Some(Exit::Done);
        view.look(vec![process(1, 30, "one"), over, web, near], 2.0);
        assert_eq!(
            text(&view),
            [
                "3 alive   15.0 tokens/s",
                "   PID PARENT STATE     CLASS        PROMPT  CACHED WRITTEN TOKENS/S  PAGES     COST  MODEL            LABEL                TITLE",
                "     1        ready     agent             9       4      30     10.0      3   0.0000  small            user/ann             one",
                "     3      1 stopped   agent             9       4       6      3.0      3   0.0000  small            untrusted/public     steer\\u{1b}[2J",
                "     4      1 ready     agent             9       4       0      0.0      3   0.0000  small            tool/local           four",
            ]
        );
    }

    #[test]
    fn keys_choose_and_signal() {
        use KeyCode::{Char, Down, End, Esc, Home, Up};
        for (keys, expected) in [
            (&[Char('q')][..], Some(Order::Quit)),
            (&[Esc], Some(Order::Quit)),
            (&[Char('x')], None),
            (&[Char('k')], Some(Order::Signal(Pid(1), "kill"))),
            (&[Up, Char('k')], Some(Order::Signal(Pid(1), "kill"))),
            (&[Down, Char('s')], Some(Order::Signal(Pid(2), "stop"))),
            (&[Down, Down, Char('s')], Some(Order::Signal(Pid(2), "stop"))),
            (&[End, Home, Char('s')], Some(Order::Signal(Pid(1), "stop"))),
        ] {
            let mut view = view();
            let last = keys.iter().map(|&key| press(&mut view, key)).last().unwrap();
            assert_eq!(last, expected, "{keys:?}");
        }
        let mut view = view();
        view.alive[0].stopped = true;
        assert_eq!(press(&mut view, Char('s')), Some(Order::Signal(Pid(1), "continue")));
        press(&mut view, Down);
        view.look(vec![process(0, 0, "new"), process(2, 4, "two")], 1.0);
        assert_eq!(view.chosen, Some(Pid(2)), "the choice stays with the process");
        view.look(Vec::new(), 1.0);
        for key in [Char('k'), Char('s'), Down, Up, Home, End] {
            assert_eq!(press(&mut view, key), None, "there is nothing to choose");
        }
    }

    #[test]
    fn the_chosen_one_is_in_sight() {
        let mut view = View::default();
        view.look((1..=9).map(|pid| process(pid, 0, "some")).collect(), 1.0);
        let mut terminal = Terminal::new(TestBackend::new(40, 6)).unwrap();
        for (key, expected) in [(KeyCode::Home, [1, 2, 3]), (KeyCode::End, [7, 8, 9])] {
            press(&mut view, key);
            terminal.draw(|frame| view.draw(frame)).unwrap();
            let buffer = terminal.backend().buffer();
            let row = |y: u16| (0..6).map(|x| buffer[(x, y)].symbol()).collect::<String>();
            assert_eq!([row(2), row(3), row(4)], expected.map(|pid| format!("{pid:>6}")));
        }
        let buffer = terminal.backend().buffer();
        let last = &buffer[(0, 4)];
        assert!(last.modifier.contains(ratatui::style::Modifier::REVERSED), "{last:?}");
        assert_eq!(buffer[(0, 5)].symbol(), "q");
    }
}
