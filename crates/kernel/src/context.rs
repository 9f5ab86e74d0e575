//! The context: which of a conversation's messages the model reads.
//!
//! The key decision: nothing is ever left out unless the client chose how. A conversation that is too
//! long is refused with the exact count; with a policy, the reply says how many tokens were dropped.

use yushan_abi::{Form, Language, Message, Overflow, Prompt, Refusal, Request, Role, TokenId};

pub use crate::summary::Asks;
use crate::summary::summarized;

/// A prompt that fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Tokens of the messages that were left out.
    pub dropped: usize,
}

/// Brings a request into a context of `limit` tokens, at least one of which is left for the answer if
/// there is one; `asks` writes summaries.
pub fn window(
    language: &dyn Language,
    request: &Request,
    limit: usize,
    asks: &Asks<'_>,
) -> Result<Window, Refusal> {
    let tokens = language.encode(request)?;
    let all = tokens.len();
    if all == 0 {
        let detail = "no tokens; expected at least one".to_string();
        return Err(Refusal::Invalid { field: "prompt".into(), detail });
    }
    let embedded = request.form == Form::Embedding;
    if all < limit || embedded && all == limit {
        return Ok(Window { tokens, dropped: 0 });
    }
    let too_long = Refusal::TooLong { limit, prompt: all };
    match (request.overflow, &request.prompt) {
        (Overflow::TruncateOldest, Prompt::Text(_) | Prompt::Tokens(_)) if embedded => {
            Ok(Window { tokens: tokens[..limit].to_vec(), dropped: all - limit })
        }
        (Overflow::TruncateOldest, Prompt::Chat(messages)) => {
            match cut(language, request, messages, limit, all)? {
                Some(Cut { tokens, dropped, .. }) => Ok(Window { tokens, dropped }),
                None => Err(too_long),
            }
        }
        (Overflow::Summarize, Prompt::Chat(messages)) => {
            summarized(language, request, messages, (limit, all), asks)
        }
        _ => Err(too_long),
    }
}

/// A conversation without its oldest turns.
pub(crate) struct Cut {
    /// The instructions before them, which stay.
    pub(crate) kept: usize,
    /// Where it goes on.
    pub(crate) from: usize,
    pub(crate) tokens: Vec<TokenId>,
    /// Tokens that were left out.
    pub(crate) dropped: usize,
}

/// The fewest turns left out that suffice for less than `limit` tokens; the last turn always stays.
/// `all` are the tokens of the whole.
pub(crate) fn cut(
    language: &dyn Language,
    request: &Request,
    messages: &[Message],
    limit: usize,
    all: usize,
) -> Result<Option<Cut>, Refusal> {
    let kept = messages.iter().take_while(|message| message.role == Role::System).count();
    let starts: Vec<usize> = turns(messages).filter(|&at| at > kept).collect();
    let fits = |from: usize| -> Result<Option<Cut>, Refusal> {
        let rest = messages[..kept].iter().chain(&messages[from..]).cloned().collect();
        let request = Request { prompt: Prompt::Chat(rest), ..request.clone() };
        let tokens = language.encode(&request)?;
        let dropped = all.saturating_sub(tokens.len());
        Ok((tokens.len() < limit).then_some(Cut { kept, from, tokens, dropped }))
    };
    let (mut low, mut high) = (0, starts.len());
    let mut best = None;
    while low < high {
        let middle = low + (high - low) / 2;
        match fits(starts[middle])? {
            Some(cut) => (best, high) = (Some(cut), middle),
            None => low = middle + 1,
        }
    }
    Ok(best)
}

/// Where turns begin: at the messages of users. Answers of tools stay with their calls.
fn turns(messages: &[Message]) -> impl Iterator<Item = usize> {
    messages.iter().enumerate().filter(|(_, message)| message.role == Role::User).map(|(at, _)| at)
}
