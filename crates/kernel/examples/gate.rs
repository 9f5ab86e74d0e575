//! How long the call gate takes to decide.
//!
//! `cargo run --release -p yushan-kernel --example gate`
//!
//! Calls of a mail tool (destinations, a subject, a body, attachments), of a search and of a payment, by processes that
//! have seen up to 16 sources for up to 8 readers, with and without capabilities. Each decision, [`gate::facts`]
//! and [`gate::decide`], is timed alone; printed are quantiles of 200,000 of them, the clock's own cost included.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::json;
use yushan_abi::{Label, Readers, Sources, ToolSpec};
use yushan_kernel::gate::{Argument, Capability, decide, facts};

const DECISIONS: usize = 200_000;

fn main() -> Result<(), serde_json::Error> {
    let tools = [
        tool("mail", "egress", &["to", "cc", "subject", "body", "attachment"], "destination")?,
        tool("search", "read", &["query", "limit"], "payload")?,
        tool("pay", "spend", &["target", "amount", "reference"], "target")?,
    ];
    let sources = [Sources::USER, Sources::WEB, Sources::OWN_DATA];
    let mut random = 1_u64;
    let mut next = move |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut label = |most: usize| {
        (0..next(most) + 1).fold(Label::of(Sources::USER), |label, _| {
            let one = Label::of(sources[next(sources.len())]);
            label.join(&match next(2) {
                0 => one,
                _ => one.for_reader(format!("reader {}", next(8))),
            })
        })
    };
    let cases: Vec<_> = (0..512)
        .map(|at| {
            let tool = &tools[at % tools.len()];
            let properties = tool.schema["properties"].as_object();
            let names = properties.into_iter().flatten().map(|(name, _)| name.clone());
            let arguments: BTreeMap<String, Argument> = names
                .map(|name| (name, Argument { label: label(4), chosen_by_user: at % 5 == 0 }))
                .collect();
            let receivers = Readers::one(format!("reader {}", at % 8));
            let capability = (at % 7 != 0).then_some(Capability { uses: Some(3), receivers });
            (tool, arguments, label(16), capability)
        })
        .collect();
    let mut allowed = 0;
    let mut times: Vec<u64> = (0..DECISIONS)
        .map(|at| {
            let (tool, arguments, process, capability) = &cases[at % cases.len()];
            let begun = Instant::now();
            let facts = facts(tool, arguments, process, capability.as_ref(), at % 2 == 0);
            let decision = std::hint::black_box(decide(facts));
            let time = begun.elapsed().as_nanos() as u64;
            allowed += usize::from(decision == yushan_kernel::gate::Decision::Allow);
            time
        })
        .collect();
    times.sort_unstable();
    let at = |share: f64| times[(share * times.len() as f64) as usize] as f64 / 1e3;
    println!("{DECISIONS} decisions, {allowed} allowed");
    println!("p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs", at(0.5), at(0.99), at(0.999));
    Ok(())
}

fn tool(
    name: &str,
    effect: &str,
    parameters: &[&str],
    first: &str,
) -> Result<ToolSpec, serde_json::Error> {
    let properties: serde_json::Map<String, serde_json::Value> =
        parameters.iter().map(|name| (name.to_string(), json!({"type": "string"}))).collect();
    serde_json::from_value(json!({
        "name": name,
        "effect": effect,
        "schema": {"type": "object", "properties": properties},
        "roles": {parameters[0]: first, parameters[parameters.len() - 1]: "payload"},
    }))
}
