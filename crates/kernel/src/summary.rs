//! A summary in place of the oldest turns.
//!
//! The key decision: the model that answers writes it, as a process of its own that is scheduled and
//! counted like any other, greedily, so that the same conversation always gets the same summary. It stands
//! before the first message that stays, as a part of its own, labelled with the join of all it was made of:
//! what was untrusted stays so, and no template sees a role that it does not expect.

use std::sync::mpsc::{Receiver, channel};

use yushan_abi::{
    Event, Finish, Label, Language, Message, Part, Prompt, Refusal, Request, Role, Sampling, Sink,
    Sources,
};

use crate::context::{Cut, Window, cut};

/// Most tokens of a summary, beside a quarter of the context.
const MOST: usize = 256;

/// Begins a completion.
pub type Asks<'a> = dyn Fn(Request, Box<dyn Sink>) -> Result<(), Refusal> + 'a;

const TASK: &str = "Summarize the following part of a conversation in a few sentences. Keep names, \
                    numbers, decisions and open questions. Write the summary and nothing else.";

/// Brings a conversation that is too long into a context of `limit` tokens.
pub(crate) fn summarized(
    language: &dyn Language,
    request: &Request,
    messages: &[Message],
    (limit, all): (usize, usize),
    asks: &Asks<'_>,
) -> Result<Window, Refusal> {
    let too_long = || Refusal::TooLong { limit, prompt: all };
    let most = MOST.min(limit / 4);
    let Some(Cut { kept, from, dropped, .. }) =
        cut(language, request, messages, limit - most, all)?
    else {
        return Err(too_long());
    };
    let old = &messages[kept..from];
    let (sender, events) = channel();
    asks(task(request, old, most), Box::new(sender)).map_err(|refusal| {
        match refusal {
            // What is to be summed up does not fit either.
            Refusal::TooLong { .. } => too_long(),
            other => other,
        }
    })?;
    let text = format!("Summary of what was said before: {}\n\n", written(&events)?.trim());
    let mut rest = [&messages[..kept], &messages[from..]].concat();
    let label = old.iter().fold(Label::of(Sources::MODEL), |label, m| label.join(&m.label()));
    rest[kept].parts.insert(0, Part { text, label });
    let tokens = language.encode(&Request { prompt: Prompt::Chat(rest), ..request.clone() })?;
    if tokens.len() >= limit {
        return Err(too_long());
    }
    Ok(Window { tokens, dropped })
}

/// What the model is asked.
fn task(request: &Request, old: &[Message], most: usize) -> Request {
    let label = old.iter().fold(Label::default(), |label, message| label.join(&message.label()));
    let line = |message: &Message| {
        let calls = message.calls.iter().map(|call| format!(" {}{}", call.name, call.arguments));
        format!("{}: {}{}\n", message.role.name(), message.text(), calls.collect::<String>())
    };
    let text = format!("{TASK}\n\n{}", old.iter().map(line).collect::<String>());
    Request {
        max_tokens: Some(most),
        sampling: Sampling { temperature: 0.0, seed: request.sampling.seed, ..Sampling::default() },
        class: request.class,
        weight: request.weight,
        tenant: request.tenant.clone(),
        account: request.account.clone(),
        ..Request::new(&*request.model, Prompt::Chat(vec![Message::new(Role::User, text, label)]))
    }
}

/// The text of an answer, when it has ended.
fn written(events: &Receiver<Event>) -> Result<String, Refusal> {
    let mut all = String::new();
    for event in events {
        match event {
            Event::Text { text, .. } => all.push_str(&text),
            Event::Done { finish: Finish::Cancelled | Finish::Budget(_), .. } => break,
            Event::Done { .. } => return Ok(all),
            Event::Failed(refusal) => return Err(refusal),
            _ => {}
        }
    }
    Err(Refusal::Internal("the summary of the oldest messages was stopped".into()))
}
