//! A conversation in the terminal.
//!
//! The whole conversation is rendered anew for each reply; what the model has read before comes
//! from its cache, so that only the new message costs time. Nothing is ever dropped from it: when
//! the window is full, that is said.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use yushan_model::chat::Message;

use crate::exit;
use crate::hub;
use crate::interrupt::Interrupt;
use crate::reply::Speaker;

const HELP: &str = "\
/help         this list
/clear        forget the conversation
/system TEXT  speak to the model under this instruction; without TEXT under none
/stats        speeds and counts of the last reply
/bye          leave (so does Ctrl-D)
\"\"\"           begins and ends a message of several lines
Ctrl-C        stops a reply";

/// Asks and answers until the person leaves.
pub(crate) fn talk(speaker: &mut Speaker<'_>, interrupt: &Interrupt) -> Result<()> {
    let mut lines = Lines::open()?;
    let mut messages: Vec<Message> =
        speaker.system().map(|text| Message::new("system", text)).into_iter().collect();
    while let Some(text) = lines.read()? {
        match text.split_once(char::is_whitespace).unwrap_or((text.as_str(), "")) {
            ("", _) => {}
            ("/bye", _) => break,
            ("/help" | "/?", _) => say(HELP)?,
            ("/stats", _) => say(speaker.stats().trim_end())?,
            ("/clear", _) => messages.retain(|message| message.role == "system"),
            ("/system", _) if speaker.template.is_none() => {
                say(
                    "This model has no chat template: it continues text and takes no instruction.",
                )?;
            }
            ("/system", text) => {
                messages.retain(|message| message.role != "system");
                if !text.trim().is_empty() {
                    messages.insert(0, Message::new("system", text.trim()));
                }
            }
            (command, _) if command.starts_with('/') && !command[1..].contains('/') => {
                say(&format!("There is no command {command}; /help lists them."))?;
            }
            _ => {
                if let Err(error) = answer(speaker, &mut messages, text, interrupt) {
                    say(&format!("error: {}", exit::line(&error)))?;
                }
            }
        }
    }
    lines.save();
    Ok(())
}

/// What the person types, with the history of it below the data home.
pub(crate) struct Lines {
    editor: Editor<(), FileHistory>,
    history: Option<PathBuf>,
}

impl Lines {
    pub(crate) fn open() -> Result<Lines> {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = Editor::<(), FileHistory>::with_config(config)?;
        let history = hub::home().map(|home| home.join("history")).ok();
        if let Some(path) = &history {
            let _ = editor.load_history(path); // the first time there is none
        }
        Ok(Lines { editor, history })
    }

    /// One message, perhaps of several lines; `None` when the person leaves.
    pub(crate) fn read(&mut self) -> Result<Option<String>> {
        let mut text = String::new();
        let mut open = false;
        loop {
            match self.editor.readline(if open { "... " } else { ">>> " }) {
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) if open => return Ok(Some(String::new())),
                Err(ReadlineError::Interrupted) => say("Ctrl-D or /bye leaves.")?,
                Err(error) => return Err(error.into()),
                Ok(line) => {
                    open = take_line(&mut text, &line, open);
                    if !open {
                        return Ok(Some(text.trim().to_string()));
                    }
                }
            }
        }
    }

    /// One line in answer to a question; `None`: there is none.
    pub(crate) fn ask(&mut self, prompt: &str) -> Result<Option<String>> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Some(line.trim().to_string())),
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the history. It is no error when that fails: the conversation is over.
    pub(crate) fn save(&mut self) {
        let Some(path) = &self.history else { return };
        let saved = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) = saved.map_err(Into::into).and_then(|()| self.editor.save_history(path))
        {
            eprintln!("warning: the history was not saved: {}: {error}", path.display());
        }
    }
}

/// A line for the person. An error when nobody reads any more.
pub(crate) fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Adds a line to a message; says whether more lines follow.
fn take_line(text: &mut String, line: &str, open: bool) -> bool {
    let fence = "\"\"\"";
    let (line, open) = match line.strip_prefix(fence) {
        Some(rest) if !open => (rest, true),
        _ => (line, open),
    };
    let (line, open) = match line.strip_suffix(fence) {
        Some(rest) if open => (rest, false),
        _ => (line, open),
    };
    text.push_str(line);
    if open {
        text.push('\n');
    }
    open
}

/// Replies to `text`. A model that only continues text sees nothing of what was said before.
fn answer(
    speaker: &mut Speaker<'_>,
    messages: &mut Vec<Message>,
    text: String,
    interrupt: &Interrupt,
) -> Result<()> {
    interrupt.take();
    if speaker.template.is_none() {
        let tokens = speaker.encode_prompt(&text)?;
        return speaker.reply(&tokens, interrupt).map(|_| ());
    }
    messages.push(Message::new("user", text));
    let tokens = speaker.encode_chat(messages);
    match tokens.and_then(|tokens| speaker.reply(&tokens, interrupt)) {
        Ok(outcome) => {
            messages.push(Message::new("assistant", outcome.text));
            Ok(())
        }
        Err(error) => {
            messages.pop(); // the conversation stays as it was
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_hold_several_lines() {
        for (lines, expected) in [
            (&["one"][..], "one"),
            (&["\"\"\"one\"\"\""], "one"),
            (&["\"\"\"one", "two\"\"\""], "one\ntwo"),
            (&["\"\"\"", "one", "\"\"\""], "\none\n"),
            (&["say \"\"\""], "say \"\"\""),
        ] {
            let (mut text, mut open) = (String::new(), false);
            for line in lines {
                open = take_line(&mut text, line, open);
            }
            assert_eq!((text.as_str(), open), (expected, false));
        }
    }
}
