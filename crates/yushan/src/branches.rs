//! A conversation with branches, as data: what each line that a person types does to it.
//!
//! The key decision: nothing here reads, writes or waits. A line becomes an [`Act`], whoever holds the
//! terminal does it and tells the outcome, so that every command can be tested with data. A branch is the
//! whole list of its messages: what two of them share, the model's cache shares too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::figures::speed;
use crate::system::plain;

pub(crate) const HELP: &str = "\
/help          this list
/fork          go on in a copy of this conversation; the first stays as it is
/branches      list the conversations
/branch N      go back to one of them
/undo          take the last exchange away
/clear         begin anew
/history       list the conversations that the system keeps
/search WORDS  list those with these words
/resume ID     go on with one of them
/system TEXT   speak to the model under this instruction; without TEXT under none
/model NAME    speak to another model; without NAME list them
/attach PATH   put a text file before the next message
/tools NAMES   let the assistant use these tools (all, none); without NAMES list them
/upload PATH   give its tools a file
/files         list the files of its tools
/get PATH [TO] bring one of them here
/save FILE     write the conversation as JSON, in the form of OpenAI's messages
/load FILE     read such a file as a further conversation
/stats         speeds and counts of the last reply
/bye           leave (so does Ctrl-D)
\"\"\"            begins and ends a message of several lines
Ctrl-C         stops a reply";

/// Letters of a message that the list of branches shows.
const SHOWN: usize = 40;
/// How calls of a tool can be decided beside the gate.
const MODES: [&str; 3] = ["auto", "ask", "deny"];

/// What somebody said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) role: String,
    pub(crate) content: String,
    /// Files that go before it: what stands in them is nobody's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) attached: Vec<String>,
    /// An assistant's calls that were made here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tool_calls: Vec<Value>,
    /// Which of them a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tool_call_id: Option<String>,
}

impl Said {
    pub(crate) fn new(role: &str, content: String) -> Said {
        let (attached, tool_calls) = (Vec::new(), Vec::new());
        Said { role: role.into(), content, attached, tool_calls, tool_call_id: None }
    }
}

/// A file that goes before the next message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// What is known of the last reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// Tokens of the prompt, those of them from the cache, and those of the reply. They come with its
    /// end: a reply that was stopped has none.
    pub(crate) counts: Option<(u64, u64, u64)>,
    /// Seconds until the first piece, and those from it to the end.
    pub(crate) times: (f64, f64),
    /// Why it ended.
    pub(crate) end: String,
}

/// What a line asks of whoever holds the terminal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Show this.
    Say(String),
    /// Ask the model; then tell `replied` or `failed`.
    Ask,
    /// Read this file; then tell `attach`.
    Attach(PathBuf),
    /// Write `saved` to this file.
    Save(PathBuf),
    /// Read this file; then tell `load`.
    Load(PathBuf),
    /// List what is kept: all of it, or what has these words.
    History(Option<String>),
    /// Get this conversation; then tell `resume`.
    Resume(String),
    /// Put this file into the space of the conversation.
    Upload(PathBuf),
    /// List the files of the space.
    Files,
    /// Bring a file of the space to this one.
    Get(String, PathBuf),
    /// Copy the first space to the second; then say the third.
    ForkSpace(String, String, String),
    /// There is nothing to do.
    Nothing,
    /// The person leaves.
    Leave,
}

/// The conversations of a session.
pub(crate) struct Branches {
    all: Vec<Vec<Said>>,
    /// Under which names they are kept.
    names: Vec<String>,
    /// What the names of new ones begin with, and how many were given.
    session: (String, usize),
    /// Which is spoken in.
    at: usize,
    /// Those that the server has.
    models: Vec<String>,
    /// Which is spoken to.
    model: String,
    attached: Vec<Attachment>,
    /// How calls of a tool are decided beside the gate, where that was said.
    modes: BTreeMap<String, &'static str>,
    /// Whether the code of an answer is run before it is shown.
    pub(crate) checks_code: bool,
    /// Whether there may be files or running programs of tools.
    works: bool,
    last: Option<Figures>,
    /// The tools that the system has: name, and what it does.
    tools: Vec<(String, String)>,
    /// Those that may be used.
    on: Vec<String>,
}

impl Branches {
    /// One, and nothing said yet. `session` is a name that no other session has.
    pub(crate) fn new(models: Vec<String>, model: String, session: String) -> Branches {
        let mut branches = Branches {
            all: Vec::new(),
            names: Vec::new(),
            session: (session, 0),
            at: 0,
            models,
            model,
            attached: Vec::new(),
            modes: BTreeMap::new(),
            checks_code: false,
            works: false,
            last: None,
            tools: Vec::new(),
            on: Vec::new(),
        };
        branches.open(Vec::new(), None);
        branches
    }

    /// A further conversation, under its name or a new one.
    fn open(&mut self, messages: Vec<Said>, name: Option<String>) {
        self.all.push(messages);
        let name = name.unwrap_or_else(|| self.new_name());
        self.names.push(name);
        self.at = self.all.len() - 1;
    }

    fn new_name(&mut self) -> String {
        let (session, count) = &mut self.session;
        *count += 1;
        format!("{session}-{count}")
    }

    /// What is asked of the server.
    pub(crate) fn request(&self) -> Value {
        let mut request = json!({
            "model": self.model,
            "messages": self.all[self.at],
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if !self.on.is_empty() {
            let tool = |name: &String| match self.modes.get(name) {
                None => json!({ "type": "system", "name": name }),
                Some(mode) => json!({ "type": "system", "name": name, "mode": mode }),
            };
            request["tools"] = self.on.iter().map(tool).collect();
            if self.checks_code && self.on.iter().any(|name| name == "python") {
                request["check_code"] = json!({});
            }
            request["space"] = json!(self.space());
            request["attended"] = json!(true);
        }
        request
    }

    /// Names the files and running programs of this conversation.
    pub(crate) fn space(&self) -> &str {
        &self.names[self.at]
    }

    /// The system has these tools.
    pub(crate) fn know(&mut self, tools: Vec<(String, String)>) {
        self.tools = tools;
    }

    /// Lets the assistant use these tools: names, `all` or `none`.
    pub(crate) fn equip(&mut self, names: &str) -> Result<String, String> {
        let mut on: Vec<(String, Option<&'static str>)> = Vec::new();
        for name in names.split([',', ' ']).filter(|name| !name.is_empty()) {
            let (name, mode) = name.split_once(':').map_or((name, None), |(n, m)| (n, Some(m)));
            let mode = match mode {
                None => None,
                Some(mode) => match MODES.iter().find(|known| **known == mode) {
                    Some(mode) => Some(*mode),
                    None => return Err(format!("{name}:{mode}: expected {}.", MODES.join(", "))),
                },
            };
            match name {
                "none" => on.clear(),
                "all" => on.extend(self.tools.iter().map(|(name, _)| (name.clone(), mode))),
                _ if self.tools.iter().any(|(tool, _)| tool == name) => {
                    on.push((name.into(), mode));
                }
                _ => {
                    let all: Vec<&str> = self.tools.iter().map(|tool| &*tool.0).collect();
                    let all = if all.is_empty() { "none".into() } else { all.join(", ") };
                    return Err(format!("There is no tool {name:?}; the system has {all}."));
                }
            }
        }
        self.works |= !on.is_empty();
        // What is said last of a tool counts: `all,python:ask`.
        self.modes.clear();
        self.on.clear();
        for (name, mode) in on {
            self.modes.remove(&name);
            self.modes.extend(mode.map(|mode| (name.clone(), mode)));
            if !self.on.contains(&name) {
                self.on.push(name);
            }
        }
        Ok(match self.on.len() {
            0 => "The assistant has no tools.".into(),
            _ => format!("The assistant may use {}.", self.on.join(", ")),
        })
    }

    /// Tools that the assistant may use.
    pub(crate) fn equipped(&self) -> &[String] {
        &self.on
    }

    fn equipment(&self) -> String {
        let line = |(name, what): &(String, String)| {
            let mark = if self.on.contains(name) { '*' } else { ' ' };
            let what: String = what.chars().take_while(|c| *c != '\n').take(70).collect();
            let name = match self.modes.get(name) {
                Some(mode) => format!("{name}:{mode}"),
                None => name.clone(),
            };
            format!("{mark} {name:<14} {what}").trim_end().to_string()
        };
        match self.tools.is_empty() {
            true => "The system has no tools.".into(),
            false => self.tools.iter().map(line).collect::<Vec<_>>().join("\n"),
        }
    }

    /// What `/save` writes: a request, so that it can be sent anywhere.
    pub(crate) fn saved(&self) -> Value {
        json!({ "model": self.model, "messages": self.all[self.at] })
    }

    /// What the system keeps.
    pub(crate) fn kept(&self) -> Value {
        json!({ "id": self.names[self.at], "model": self.model, "messages": self.all[self.at] })
    }

    /// A conversation that the system kept, as a further one, or in place of one without a word.
    pub(crate) fn resume(&mut self, kept: &Value) -> Result<String, String> {
        let name = kept["id"].as_str().map(str::to_string);
        if let Some(at) = self.names.iter().position(|held| Some(held) == name.as_ref()) {
            self.at = at;
        } else {
            let messages = messages_in(&kept.to_string())?;
            if self.here().is_empty() {
                let at = self.at;
                self.all.remove(at);
                self.names.remove(at);
            }
            self.open(messages, name);
        }
        if let Some(model) = kept["model"].as_str().filter(|m| self.models.iter().any(|n| n == m)) {
            self.model = model.to_string();
        }
        Ok(format!("This is branch {}: {}.", self.at + 1, messages_of(self.all[self.at].len())))
    }

    /// A line, or a message of several.
    pub(crate) fn take(&mut self, text: String) -> Act {
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let rest = rest.trim();
        match (command, rest) {
            ("", _) => Act::Nothing,
            ("/bye" | "/quit" | "/exit", _) => Act::Leave,
            ("/help" | "/?", _) => Act::Say(HELP.into()),
            ("/fork", _) => self.fork(),
            ("/branches", _) => Act::Say(self.list()),
            ("/branch", number) => self.switch(number),
            ("/undo", _) => self.undo(),
            ("/clear", _) => {
                self.here().retain(|said| said.role == "system");
                self.names[self.at] = self.new_name();
                self.attached.clear();
                Act::Nothing
            }
            ("/system", text) => {
                self.instruct(text.to_string());
                Act::Nothing
            }
            ("/model", name) => self.choose(name.to_string()),
            ("/stats", _) => Act::Say(self.last.as_ref().map_or("no reply yet".into(), stats)),
            ("/history", _) => Act::History(None),
            ("/search", "") => Act::Say("/search needs words: /search WORDS".into()),
            ("/search", words) => Act::History(Some(words.into())),
            ("/resume", "") => Act::Say("/resume needs an ID: /history lists them".into()),
            ("/resume", name) => Act::Resume(name.into()),
            ("/tools", "") => Act::Say(self.equipment()),
            ("/tools", names) => Act::Say(self.equip(names).unwrap_or_else(|why| why)),
            ("/files", _) => Act::Files,
            ("/get", path) if !path.is_empty() => {
                let (path, to) = path.split_once(char::is_whitespace).unwrap_or((path, ""));
                let name = path.rsplit('/').next().unwrap_or(path);
                let to = if to.is_empty() { name } else { to.trim() };
                Act::Get(path.into(), to.into())
            }
            ("/attach" | "/save" | "/load" | "/upload" | "/get", "") => {
                Act::Say(format!("{command} needs a file: {command} PATH"))
            }
            ("/attach", path) => Act::Attach(path.into()),
            ("/upload", path) => {
                self.works = true;
                Act::Upload(path.into())
            }
            ("/save", path) => Act::Save(path.into()),
            ("/load", path) => Act::Load(path.into()),
            _ if command.starts_with('/') && !command[1..].contains('/') => {
                Act::Say(format!("There is no command {command}; /help lists them."))
            }
            _ => {
                let attached = self.attached.iter().map(quoted).collect();
                self.here().push(Said { attached, ..Said::new("user", text) });
                Act::Ask
            }
        }
    }

    /// The model has answered; perhaps it was stopped.
    pub(crate) fn replied(&mut self, steps: Vec<Said>, text: String, figures: Figures) {
        self.here().extend(steps);
        self.here().push(Said::new("assistant", text));
        self.attached.clear();
        self.last = Some(figures);
    }

    /// There is no answer: the conversation stays as it was, and so do the attachments.
    pub(crate) fn failed(&mut self) {
        self.here().pop();
    }

    /// A file for the next message.
    pub(crate) fn attach(&mut self, file: Attachment) -> String {
        let said =
            format!("{:?}, {} bytes, goes before the next message.", file.name, file.text.len());
        self.attached.push(file);
        said
    }

    /// A further conversation, from what `/save` or another program wrote.
    pub(crate) fn load(&mut self, text: &str) -> Result<String, String> {
        let messages = messages_in(text)?;
        let count = messages.len();
        self.open(messages, None);
        Ok(format!("This is branch {}: {}.", self.all.len(), messages_of(count)))
    }

    fn here(&mut self) -> &mut Vec<Said> {
        &mut self.all[self.at]
    }

    fn fork(&mut self) -> Act {
        let (from, space) = (self.at + 1, self.space().to_string());
        self.open(self.all[self.at].clone(), None);
        let said = format!("This is branch {}; /branch {from} goes back.", self.all.len());
        match self.works {
            false => Act::Say(said),
            true => Act::ForkSpace(space, self.space().to_string(), said),
        }
    }

    fn list(&self) -> String {
        let line = |(i, branch): (usize, &Vec<Said>)| {
            let mark = if i == self.at { '*' } else { ' ' };
            let last = branch.last().map_or("", |said| &said.content);
            let shown: String = last.chars().take(SHOWN).collect();
            let more = if shown.len() < last.len() { "…" } else { "" };
            let shown = plain(&shown) + more;
            format!("{mark} {:>2}  {:<12}  {shown}", i + 1, messages_of(branch.len()))
                .trim_end()
                .into()
        };
        self.all.iter().enumerate().map(line).collect::<Vec<String>>().join("\n")
    }

    fn switch(&mut self, number: &str) -> Act {
        match number.parse() {
            Ok(number) if (1..=self.all.len()).contains(&number) => {
                self.at = number - 1;
                Act::Say(format!(
                    "This is branch {number}: {}.",
                    messages_of(self.all[self.at].len())
                ))
            }
            _ => Act::Say(format!("/branch needs a number from 1 to {}.", self.all.len())),
        }
    }

    fn undo(&mut self) -> Act {
        let here = self.here();
        match here.iter().rposition(|said| said.role == "user") {
            Some(at) => {
                here.truncate(at);
                Act::Say(format!("The last exchange is away: {}.", messages_of(at)))
            }
            None => Act::Say("Nothing was said yet.".into()),
        }
    }

    fn instruct(&mut self, text: String) {
        let here = self.here();
        here.retain(|said| said.role != "system");
        if !text.is_empty() {
            here.insert(0, Said::new("system", text));
        }
    }

    fn choose(&mut self, name: String) -> Act {
        if self.models.contains(&name) {
            self.model = name;
            return Act::Nothing;
        }
        let line =
            |name: &String| format!("{} {name}", if *name == self.model { '*' } else { ' ' });
        let list = self.models.iter().map(line).collect::<Vec<_>>().join("\n");
        match name.as_str() {
            "" => Act::Say(list),
            _ => Act::Say(format!("There is no model {name:?}; there are\n{list}")),
        }
    }
}

/// The messages of a conversation in OpenAI's form.
fn messages_in(text: &str) -> Result<Vec<Said>, String> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum File {
        Messages(Vec<Said>),
        Request { messages: Vec<Said> },
    }
    let expected = "expected {\"messages\": [{\"role\": …, \"content\": \"…\"}, …]}";
    let messages = match serde_json::from_str(text) {
        Ok(File::Messages(messages) | File::Request { messages }) => messages,
        Err(error) => return Err(format!("no conversation ({error}): {expected}")),
    };
    let known = ["system", "user", "assistant", "tool"];
    if let Some(said) = messages.iter().find(|said| !known.contains(&said.role.as_str())) {
        return Err(format!(
            "a message of the role {:?}: a conversation here has the roles {}",
            said.role,
            known.join(", ")
        ));
    }
    Ok(messages)
}

fn messages_of(count: usize) -> String {
    if count == 1 { "1 message".into() } else { format!("{count} messages") }
}

/// A file as the model reads it, in a fence that is longer than any in it.
fn quoted(file: &Attachment) -> String {
    let longest = file.text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let newline = if file.text.ends_with('\n') { "" } else { "\n" };
    format!("File {:?}:\n{fence}\n{}{newline}{fence}\n\n", file.name, file.text)
}

fn stats(figures: &Figures) -> String {
    let (first, rest) = figures.times;
    let (prompt, reply) = match figures.counts {
        Some((prompt, cached, written)) => {
            // The first token comes with the prompt.
            let speed = speed(written.saturating_sub(1), rest);
            (
                format!("{prompt} tokens, {cached} of them cached, "),
                format!("{written} tokens, {speed} tokens/s, "),
            )
        }
        None => Default::default(),
    };
    format!(
        "prompt       {prompt}{first:.3} s to the first piece\n\
         reply        {reply}{rest:.3} s\n\
         end          {}",
        figures.end
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branches() -> Branches {
        Branches::new(vec!["small".into(), "large".into()], "small".into(), "s".into())
    }

    /// Types the lines; a message is answered with its own text in capitals. What is said back.
    fn typed(branches: &mut Branches, lines: &[&str]) -> Vec<String> {
        let mut said = Vec::new();
        for line in lines {
            match branches.take(line.to_string()) {
                Act::Say(text) => said.push(text),
                Act::Ask => {
                    branches.replied(Vec::new(), line.to_uppercase(), Figures::default());
                }
                Act::Nothing => {}
                act => said.push(format!("{act:?}")),
            }
        }
        said
    }

    fn roles(branches: &Branches) -> String {
        let said = branches.all[branches.at]
            .iter()
            .map(|said| format!("{}:{}{}", &said.role[..1], said.attached.concat(), said.content));
        said.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_change_the_conversation() {
        for (lines, expected) in [
            (&["hi"][..], "u:hi a:HI"),
            (&["", "   ", "/help"], ""),
            (&["hi", "/undo"], ""),
            (&["hi", "ho", "/undo"], "u:hi a:HI"),
            (&["/undo"], ""),
            (&["hi", "/clear"], ""),
            (&["/system be brief", "hi"], "s:be brief u:hi a:HI"),
            (&["/system a", "hi", "/system b"], "s:b u:hi a:HI"),
            (&["/system a", "/system", "hi"], "u:hi a:HI"),
            (&["/system a", "hi", "/clear"], "s:a"),
            (&["hi", "/fork", "ho"], "u:hi a:HI u:ho a:HO"),
            (&["hi", "/fork", "ho", "/branch 1", "he"], "u:hi a:HI u:he a:HE"),
            (&["hi", "/fork", "ho", "/branch 3"], "u:hi a:HI u:ho a:HO"),
            (&["/usr/bin is a path"], "u:/usr/bin is a path a:/USR/BIN IS A PATH"),
        ] {
            let mut branches = branches();
            typed(&mut branches, lines);
            assert_eq!(roles(&branches), expected, "{lines:?}");
        }
    }

    #[test]
    fn lines_are_answered() {
        for (lines, expected) in [
            (&["/fly"][..], "There is no command /fly; /help lists them."),
            (&["/fork"], "This is branch 2; /branch 1 goes back."),
            (&["/branch"], "/branch needs a number from 1 to 1."),
            (&["/branch 0"], "/branch needs a number from 1 to 1."),
            (
                &["hi\nthere", "/fork", "/undo", "/branches"],
                "   1  2 messages    HI THERE\n*  2  0 messages",
            ),
            (&["/model"], "* small\n  large"),
            (&["/model large", "/model"], "  small\n* large"),
            (&["/model no"], "There is no model \"no\"; there are\n* small\n  large"),
            (&["/stats"], "no reply yet"),
            (&["/save"], "/save needs a file: /save PATH"),
            (&["/save a b.json"], "Save(\"a b.json\")"),
            (&["/load a.json"], "Load(\"a.json\")"),
            (&["/attach a.txt"], "Attach(\"a.txt\")"),
            (&["/history"], "History(None)"),
            (&["/search two words"], "History(Some(\"two words\"))"),
            (&["/search"], "/search needs words: /search WORDS"),
            (&["/resume"], "/resume needs an ID: /history lists them"),
            (&["/resume a-1"], "Resume(\"a-1\")"),
            (&["/tools"], "The system has no tools."),
            (&["/tools all"], "The assistant has no tools."),
            (&["/tools fly"], "There is no tool \"fly\"; the system has none."),
            (&["/upload a b.csv"], "Upload(\"a b.csv\")"),
            (&["/get out/a.png"], "Get(\"out/a.png\", \"a.png\")"),
            (&["/get a.png b.png"], "Get(\"a.png\", \"b.png\")"),
            (&["/get"], "/get needs a file: /get PATH"),
            (&["/files"], "Files"),
            (&["/bye"], "Leave"),
        ] {
            let mut branches = branches();
            assert_eq!(typed(&mut branches, lines).last().unwrap(), expected, "{lines:?}");
        }
    }

    #[test]
    fn tools_are_named_and_forked_with_the_conversation() {
        let mut branches = branches();
        branches.know(vec![("python".into(), "runs code".into()), ("web".into(), "reads".into())]);
        assert_eq!(branches.request().get("tools"), None);
        let said = typed(&mut branches, &["/tools python", "/tools", "/fork"]);
        assert_eq!(said[0], "The assistant may use python.");
        assert_eq!(said[1], "* python         runs code\n  web            reads");
        assert!(said[2].starts_with("ForkSpace(\"s-1\", \"s-2\", "), "{said:?}");
        let request = branches.request();
        assert_eq!(request["tools"], json!([{"type": "system", "name": "python"}]));
        assert_eq!((&request["space"], &request["attended"]), (&json!("s-2"), &json!(true)));
        assert_eq!(branches.equip("all").unwrap(), "The assistant may use python, web.");
        branches.checks_code = true;
        branches.equip("all,python:ask").unwrap();
        let request = branches.request();
        let python = json!({"type": "system", "name": "python", "mode": "ask"});
        assert_eq!((&request["tools"][0], &request["check_code"]), (&python, &json!({})));
        assert!(branches.equip("python:always").unwrap_err().contains("auto, ask, deny"));
        assert_eq!(branches.equip("none").unwrap(), "The assistant has no tools.");
    }

    #[test]
    fn attachments_wait_for_an_answer() {
        let mut branches = branches();
        branches.attach(Attachment { name: "a.md".into(), text: "```\nx\n```".into() });
        assert_eq!(branches.take("what?".into()), Act::Ask);
        let expected = "u:File \"a.md\":\n````\n```\nx\n```\n````\n\nwhat?";
        assert_eq!(roles(&branches), expected);
        branches.failed();
        assert_eq!(roles(&branches), "");
        typed(&mut branches, &["what?", "and?"]);
        assert_eq!(roles(&branches), format!("{expected} a:WHAT? u:and? a:AND?"));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let mut branches = branches();
        typed(&mut branches, &["/system be brief", "hi"]);
        let (saved, before) = (branches.saved(), roles(&branches));
        assert_eq!(saved["model"], "small");
        typed(&mut branches, &["ho"]);
        assert_eq!(branches.load(&saved.to_string()).unwrap(), "This is branch 2: 3 messages.");
        assert_eq!(roles(&branches), before);
        branches.load(&saved["messages"].to_string()).unwrap();
        assert_eq!((roles(&branches), branches.at), (before, 2));
        for (text, part) in [
            ("", "no conversation"),
            ("{}", "expected {\"messages\""),
            ("[{\"role\": \"user\", \"content\": [1]}]", "no conversation"),
            ("[{\"role\": \"judge\", \"content\": \"a\"}]", "the role \"judge\""),
        ] {
            assert!(branches.load(text).unwrap_err().contains(part), "{text}");
        }
        assert_eq!(branches.all.len(), 3, "what cannot be read changes nothing");
    }

    #[test]
    fn what_was_kept_goes_on_under_its_name() {
        let mut branches = branches();
        typed(&mut branches, &["hi", "/fork", "ho", "/clear", "hey"]);
        let names: Vec<_> = branches.names.iter().map(String::as_str).collect();
        assert_eq!(names, ["s-1", "s-3"]);
        let kept = json!({"id": "old-7", "model": "large", "created_at": 3,
            "messages": [{"role": "user", "content": "a"}]});
        assert_eq!(branches.resume(&kept).unwrap(), "This is branch 3: 1 message.");
        typed(&mut branches, &["b"]);
        let again = branches.kept();
        assert_eq!((&again["id"], &again["model"]), (&json!("old-7"), &json!("large")));
        assert_eq!(again["messages"][2], json!({"role": "assistant", "content": "B"}));
        // It is here already: nothing is lost.
        assert_eq!(branches.resume(&kept).unwrap(), "This is branch 3: 3 messages.");
        let pictures = json!({"id": "p", "messages": [{"role": "user", "content": [1]}]});
        assert!(branches.resume(&pictures).is_err());
        let mut empty = super::tests::branches();
        assert_eq!(empty.resume(&kept).unwrap(), "This is branch 1: 1 message.");
    }

    #[test]
    fn figures_become_lines() {
        for (counts, rest, expected) in [
            (
                Some((9, 4, 1)),
                2.0,
                "prompt       9 tokens, 4 of them cached, 0.500 s to the first piece\n\
                 reply        1 tokens, - tokens/s, 2.000 s\n\
                 end          stop",
            ),
            (
                Some((9, 4, 11)),
                0.0,
                "prompt       9 tokens, 4 of them cached, 0.500 s to the first piece\n\
                 reply        11 tokens, - tokens/s, 0.000 s\n\
                 end          stop",
            ),
            (
                Some((9, 4, 11)),
                2.0,
                "prompt       9 tokens, 4 of them cached, 0.500 s to the first piece\n\
                 reply        11 tokens, 5.0 tokens/s, 2.000 s\n\
                 end          stop",
            ),
            (
                None,
                2.0,
                "prompt       0.500 s to the first piece\n\
                 reply        2.000 s\n\
                 end          stop",
            ),
        ] {
            let figures = Figures { counts, times: (0.5, rest), end: "stop".into() };
            assert_eq!(stats(&figures), expected);
        }
    }
}
