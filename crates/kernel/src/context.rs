//! The context: which of a conversation's messages the model reads.
//!
//! The key decision: nothing is ever left out unless the client chose how. A conversation that is too
//! long is refused with the exact count; with a policy, the reply says how many tokens were dropped.

use yushan_abi::{Form, Language, Overflow, Prompt, Refusal, Request, Role, TokenId};

/// A prompt that fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Tokens of the messages that were left out.
    pub dropped: usize,
}

/// Brings a request into a context of `limit` tokens, at least one of which is left for the answer if
/// there is one.
pub fn window(language: &dyn Language, request: &Request, limit: usize) -> Result<Window, Refusal> {
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
            let kept = messages.iter().take_while(|message| message.role == Role::System).count();
            let starts: Vec<usize> = turns(request).filter(|&at| at > kept).collect();
            // The fewest turns left out that suffice; the last turn always stays.
            let fits = |from: usize| -> Result<Option<Window>, Refusal> {
                let rest = messages[..kept].iter().chain(&messages[from..]).cloned().collect();
                let request = Request { prompt: Prompt::Chat(rest), ..request.clone() };
                let tokens = language.encode(&request)?;
                let dropped = all.saturating_sub(tokens.len());
                Ok((tokens.len() < limit).then_some(Window { tokens, dropped }))
            };
            let (mut low, mut high) = (0, starts.len());
            let mut best = None;
            while low < high {
                let middle = low + (high - low) / 2;
                match fits(starts[middle])? {
                    Some(window) => (best, high) = (Some(window), middle),
                    None => low = middle + 1,
                }
            }
            best.ok_or(too_long)
        }
        (Overflow::Summarize, _) => Err(Refusal::Invalid {
            field: "truncation".into(),
            detail: "\"summarize\" is not offered by this model; expected \"auto\" or \"disabled\""
                .into(),
        }),
        _ => Err(too_long),
    }
}

/// Where turns begin: at the messages of users. Answers of tools stay with their calls.
fn turns(request: &Request) -> impl Iterator<Item = usize> {
    let messages: &[_] = match &request.prompt {
        Prompt::Chat(messages) => messages,
        _ => &[],
    };
    messages.iter().enumerate().filter(|(_, message)| message.role == Role::User).map(|(at, _)| at)
}
