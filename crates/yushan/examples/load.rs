//! Parallel streams of completions, measured at the client: what `bench/vs-llama-server` sends to both servers.
//!
//! `load ADDRESS MODEL STREAMS PROMPT TOKENS WAVES SEED`
//!
//! A wave is STREAMS requests at once, each with PROMPT tokens of its own and exactly TOKENS tokens to write; the
//! next begins when all have ended. Prints one line of JSON. That the tokens are as many as asked for is read from
//! the usage of every answer: anything else is an error.

#[path = "beside/client.rs"]
mod client;

use std::net::SocketAddr;
use std::time::Instant;

use client::{Answer, Random, ask, completion, quantile};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, model, numbers @ ..] = &arguments[..] else { return Err(USAGE.into()) };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [streams, prompt, tokens, waves, seed] = numbers[..] else { return Err(USAGE.into()) };
    let address: SocketAddr = address.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut random = Random(seed as u64);
    let (mut seconds, mut firsts) = (0.0, Vec::new());
    for _ in 0..waves {
        let bodies: Vec<_> =
            (0..streams).map(|_| completion(model, prompt, tokens, &mut random)).collect();
        let begun = Instant::now();
        let answers = runtime.block_on(async {
            let asked = bodies
                .into_iter()
                .map(|body| tokio::spawn(async move { ask(address, &body, None).await }));
            let asked: Vec<_> = asked.collect();
            let mut answers = Vec::new();
            for answer in asked {
                answers.push(answer.await??);
            }
            Ok::<Vec<Answer>, Failure>(answers)
        })?;
        seconds += begun.elapsed().as_secs_f64();
        for answer in answers {
            match answer.read() {
                Some((_, read, written)) if (read, written) == (prompt as u64, tokens as u64) => {}
                other => {
                    return Err(format!("{}: {other:?}: {}", answer.status(), answer.body()).into());
                }
            }
            firsts.push(answer.times.1.as_secs_f64());
        }
    }
    let all = streams * tokens * waves;
    let report = json!({
        "tokens": all,
        "seconds": seconds,
        "tokens_per_second": all as f64 / seconds,
        "first_token_median": quantile(&mut firsts, 0.5),
    });
    println!("{report}");
    Ok(())
}

const USAGE: &str = "usage: load ADDRESS MODEL STREAMS PROMPT TOKENS WAVES SEED";
