//! Reads calls out of an answer while it comes.
//!
//! The key decision: character by character, so that the result cannot depend on how the answer
//! was cut. A call begins when its tool is known and its arguments open; from there on they are
//! passed on as they come, byte for byte as the model wrote them. What turns out to be no call before
//! that comes out as text; a call that breaks inside its arguments is not among
//! [`Parser::calls`], and what follows it is text.
//!
//! White space around calls belongs to neither.

use serde::de::IgnoredAny;
use yushan_abi::{Call, Piece};

use super::{Convention, Ids};

/// Longest beginning of a call, up to its arguments, in bytes.
const LONGEST_HEAD: usize = 4096;
/// With this key bare JSON begins if it is a call.
const FIRST_KEY: &str = "\"name\"";
/// JSON's white space.
const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];

/// Reads one answer.
pub struct Parser {
    convention: Convention,
    /// The tools; what calls another is text.
    names: Vec<String>,
    ids: Ids,
    state: State,
    /// What has been read and is neither text nor call yet.
    held: String,
    /// Text to be given out.
    text: String,
    /// Arguments to be given out.
    arguments: String,
    /// The call in the making, then those that are whole.
    open: Option<Call>,
    calls: Vec<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nothing but white space yet.
    Start,
    /// Text; `held` may begin an opener.
    Text,
    /// From the opener to the arguments.
    Head,
    /// Inside the arguments.
    Arguments(Depth),
    /// From the arguments to the `}` of the call.
    Tail,
    /// What closes a call.
    Close,
    /// White space after a call.
    Between,
}

/// Where in a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Depth {
    brackets: usize,
    in_string: bool,
    escaped: bool,
}

impl Depth {
    /// Goes past a byte; says whether the value is closed.
    fn push(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.brackets += 1,
            b'}' | b']' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        self.brackets == 0 && !self.in_string
    }
}

impl Parser {
    /// For an answer of a model that knows these tools.
    pub fn new(convention: Convention, names: Vec<String>, ids: Ids) -> Parser {
        Parser {
            convention,
            names,
            ids,
            state: State::Start,
            held: String::new(),
            text: String::new(),
            arguments: String::new(),
            open: None,
            calls: Vec::new(),
        }
    }

    /// The calls that are whole.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Reads on; appends what can be shown.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        for char in text.chars() {
            self.step(char, out);
        }
        self.give(out);
    }

    /// The answer ended: what might have become a call is text.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        match self.state {
            State::Start | State::Text | State::Head => self.text.push_str(&self.held),
            State::Arguments(_) | State::Tail | State::Close | State::Between => {}
        }
        self.held.clear();
        self.give(out);
    }

    fn give(&mut self, out: &mut Vec<Piece>) {
        if !self.text.is_empty() {
            out.push(Piece::Text(std::mem::take(&mut self.text)));
        }
        if !self.arguments.is_empty() {
            out.push(Piece::Arguments(std::mem::take(&mut self.arguments)));
        }
    }

    fn step(&mut self, char: char, out: &mut Vec<Piece>) {
        match self.state {
            State::Start | State::Between if SPACE.contains(&char) => self.held.push(char),
            State::Start if char == '{' && self.convention == Convention::Llama3 => {
                self.held.push(char);
                self.state = State::Head;
            }
            State::Start | State::Between => {
                // White space before an opener goes with it, or else is text.
                self.held.push(char);
                self.look_for_opener();
            }
            State::Text => {
                self.held.push(char);
                self.look_for_opener();
            }
            State::Head => self.step_head(char, out),
            State::Arguments(depth) => self.step_arguments(depth, char, out),
            State::Tail | State::Close => self.step_end(char),
        }
    }

    /// Gives out what cannot begin an opener.
    fn look_for_opener(&mut self) {
        let opener = self.convention.opener();
        let silent = matches!(self.state, State::Start | State::Between);
        let begins = if silent { self.held.trim_start_matches(SPACE) } else { &self.held };
        if begins == opener {
            self.state = State::Head;
            return;
        }
        if opener.starts_with(begins) {
            return;
        }
        self.state = State::Text;
        // The longest end that begins an opener stays.
        let keep = (1..opener.len()).rev().find(|&n| self.held.ends_with(&opener[..n]));
        let shown = self.held.len() - keep.unwrap_or(0);
        self.text.extend(self.held.drain(..shown));
    }

    fn step_head(&mut self, char: char, out: &mut Vec<Piece>) {
        self.held.push(char);
        match head(self.convention, &self.held) {
            Ok(Head { name, arguments, closed }) if self.names.contains(&name) => {
                let read = self.held[arguments..].to_string();
                self.held.clear();
                self.give(out);
                let id = self.ids.name(self.calls.len());
                out.push(Piece::CallBegins { id: id.clone(), name: name.clone() });
                self.open = Some(Call { id, name, arguments: String::new() });
                self.state = State::Arguments(Depth::default());
                if closed {
                    // The name came last: the rest is read again.
                    read.chars().for_each(|char| self.step(char, out));
                } else {
                    self.step('{', out);
                }
            }
            Err(Lack::More) if self.held.len() <= LONGEST_HEAD => {}
            _ => self.break_off(),
        }
    }

    fn step_arguments(&mut self, mut depth: Depth, char: char, out: &mut Vec<Piece>) {
        let mut bytes = [0; 4];
        let closed = char.encode_utf8(&mut bytes).bytes().fold(false, |_, byte| depth.push(byte));
        self.arguments.push(char);
        if let Some(call) = &mut self.open {
            call.arguments.push(char);
        }
        self.state = State::Arguments(depth);
        if closed {
            self.give(out);
            let whole = |call: &Call| serde_json::from_str::<IgnoredAny>(&call.arguments).is_ok();
            match self.open.take().filter(whole) {
                Some(call) => {
                    self.calls.push(call);
                    self.state = State::Tail;
                }
                None => self.state = State::Text,
            }
        }
    }

    fn step_end(&mut self, char: char) {
        self.held.push(char);
        let (read, then) = match self.state {
            State::Tail => (tail(&self.held), State::Close),
            _ => close(self.convention, &self.held),
        };
        match read {
            Ok(()) => {
                // A comma stays: what follows it may be no call.
                if then != State::Head {
                    self.held.clear();
                }
                self.state = then;
                if self.state == State::Close && self.convention.closer().is_empty() {
                    self.state = State::Between;
                }
            }
            Err(Lack::More) if self.held.len() <= LONGEST_HEAD => {}
            Err(_) => self.break_off(),
        }
    }

    /// What is held is text; its last character may begin an opener.
    fn break_off(&mut self) {
        self.state = State::Text;
        let last = self.held.pop();
        self.text.push_str(&self.held);
        self.held.clear();
        self.held.extend(last);
        self.look_for_opener();
    }
}

/// Why a text is no more than a beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lack {
    /// It ends too early.
    More,
    /// No end would help.
    Right,
}

/// The beginning of a call.
struct Head {
    name: String,
    /// Where the arguments begin.
    arguments: usize,
    /// Whether they, and what follows, have been read already.
    closed: bool,
}

/// Reads up to the arguments of a call.
fn head(convention: Convention, held: &str) -> Result<Head, Lack> {
    let mut at = Cursor { text: held, at: 0 };
    at.space();
    let opened = held[at.at..].starts_with(convention.opener());
    if opened {
        at.at += convention.opener().len();
        at.space();
    }
    if convention == Convention::Mistral {
        at.expect(if opened { b'[' } else { b',' })?;
        at.space();
    }
    at.expect(b'{')?;
    if !opened && convention == Convention::Llama3 {
        // Bare JSON is a call if it begins like one; the grammar of free text forbids just this.
        at.space();
        let begins = &held[at.at..];
        if !begins.starts_with(FIRST_KEY) {
            return Err(if FIRST_KEY.starts_with(begins) { Lack::More } else { Lack::Right });
        }
    }
    let (mut name, mut arguments) = (None, None);
    loop {
        at.space();
        let key = at.string()?;
        at.space();
        at.expect(b':')?;
        at.space();
        match (key.as_str(), at.peek()?) {
            ("name", b'"') if name.is_none() => name = Some(at.string()?),
            ("arguments" | "parameters", b'{') if arguments.is_none() => match name {
                Some(name) => return Ok(Head { name, arguments: at.at, closed: false }),
                None => {
                    arguments = Some(at.at);
                    at.value()?;
                }
            },
            ("name" | "arguments" | "parameters", _) => return Err(Lack::Right),
            _ => at.value()?,
        }
        if let (Some(name), Some(arguments)) = (&name, arguments) {
            return Ok(Head { name: name.clone(), arguments, closed: true });
        }
        at.space();
        at.expect(b',')?;
    }
}

/// Reads `}`, and other fields before it.
fn tail(held: &str) -> Result<(), Lack> {
    let mut at = Cursor { text: held, at: 0 };
    loop {
        at.space();
        if at.peek()? == b'}' {
            return Ok(());
        }
        at.expect(b',')?;
        at.space();
        at.string()?;
        at.space();
        at.expect(b':')?;
        at.space();
        at.value()?;
    }
}

/// Reads what closes a call, and says what comes after.
fn close(convention: Convention, held: &str) -> (Result<(), Lack>, State) {
    let rest = held.trim_start_matches(SPACE);
    if convention == Convention::Mistral && rest == "," {
        return (Ok(()), State::Head);
    }
    let closer = convention.closer();
    let read = match () {
        () if rest == closer => Ok(()),
        () if closer.starts_with(rest) => Err(Lack::More),
        () => Err(Lack::Right),
    };
    (read, State::Between)
}

/// Reads JSON that may not have come whole.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn space(&mut self) {
        let rest = &self.text[self.at..];
        self.at = self.text.len() - rest.trim_start_matches(SPACE).len();
    }

    fn peek(&self) -> Result<u8, Lack> {
        self.text.as_bytes().get(self.at).copied().ok_or(Lack::More)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Lack> {
        if self.peek()? != byte {
            return Err(Lack::Right);
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<String, Lack> {
        if self.peek()? != b'"' {
            return Err(Lack::Right);
        }
        let start = self.at;
        self.value()?;
        serde_json::from_str(&self.text[start..self.at]).map_err(|_| Lack::Right)
    }

    /// Goes past a value; numbers and words end where something else begins.
    fn value(&mut self) -> Result<(), Lack> {
        let start = self.at;
        if matches!(self.peek()?, b'{' | b'[' | b'"') {
            let mut depth = Depth::default();
            loop {
                let byte = self.peek()?;
                self.at += 1;
                if depth.push(byte) {
                    break;
                }
            }
        } else {
            while !matches!(self.peek()?, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                self.at += 1;
                if !self.text.is_char_boundary(self.at) || self.at - start > 64 {
                    return Err(Lack::Right);
                }
            }
        }
        match serde_json::from_str::<IgnoredAny>(&self.text[start..self.at]) {
            Ok(_) => Ok(()),
            Err(_) => Err(Lack::Right),
        }
    }
}
