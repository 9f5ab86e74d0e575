//! Embeddings, for both faces.
//!
//! The key decision: a text is a request like any other, whose answer has the form of a vector; so it is a
//! process, scheduled with the rest. Of many texts [`BESIDE`] are asked for at a time, and all come back in
//! their order.

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use yushan_abi::{Counts, Form, ModelInfo, Overflow, Prompt, Request};

use crate::Server;
use crate::doors::Caller;
use crate::fault::Fault;
use crate::stream::whole;

/// Texts of one request: OpenAI's figure.
const MOST: usize = 2048;
/// Of these, asked for at a time.
const BESIDE: usize = 16;

/// What became of the texts of a request.
pub(crate) struct Embedded {
    /// One for each text, of length 1.
    pub(crate) vectors: Vec<Vec<f32>>,
    /// Tokens that were read.
    pub(crate) tokens: usize,
    /// Tokens that were left out.
    pub(crate) dropped: usize,
}

/// Embeds texts; `field` is where they stood, and `dimensions` what was asked for.
pub(crate) async fn embed(
    server: &Server,
    caller: &Caller,
    model: &ModelInfo,
    (field, prompts): (&'static str, Vec<Prompt>),
    overflow: Overflow,
    dimensions: Option<u64>,
) -> Result<Embedded, Fault> {
    let dimensions = crate::body::whole("dimensions", dimensions, 1, 1 << 20)?;
    if !(1..=MOST).contains(&prompts.len()) {
        let detail = format!("{} texts were given; expected 1 to {MOST}", prompts.len());
        return Err(Fault::invalid(field, detail));
    }
    let named = |fault: Fault| match fault {
        Fault::Invalid { field: of, detail } if of == "prompt" => Fault::invalid(field, detail),
        other => other.in_field(field),
    };
    let one = |prompt| async move {
        let request = Request {
            form: Form::Embedding,
            overflow,
            tenant: caller.tenant.clone(),
            ..Request::new(&*model.name, prompt)
        };
        let mut answers = whole(server.start(caller, request, 1).await.map_err(named)?).await?;
        let answer = answers.pop().ok_or_else(|| Fault::Internal("no answer came".into()))?;
        match dimensions {
            Some(asked) if asked != answer.embedding.len() => {
                let has = answer.embedding.len();
                let detail =
                    format!("{asked} was given; this model's vectors have {has} and are not cut");
                Err(Fault::invalid("dimensions", detail))
            }
            _ => Ok((answer.embedding, answer.counts)),
        }
    };
    let done = iter(prompts.into_iter().map(one)).buffered(BESIDE).try_collect();
    let done: Vec<(Vec<f32>, Counts)> = done.await?;
    Ok(Embedded {
        tokens: done.iter().map(|(_, counts)| counts.prompt).sum(),
        dropped: done.iter().map(|(_, counts)| counts.dropped).sum(),
        vectors: done.into_iter().map(|(vector, _)| vector).collect(),
    })
}
