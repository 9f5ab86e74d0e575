//! A model that plays a part: for tests of programs.
//!
//! The model reads the conversation and says what the part makes of it, letter by letter. It calls tools by
//! lines: `|NAME {JSON}`.

use std::sync::Arc;

use yushan_abi::scripted::Scripted;
use yushan_abi::*;
use yushan_kernel::Loaded;

/// What the model says to a conversation.
pub(crate) type Part = fn(&[Message]) -> String;

/// Ends the conversation in the tokens.
const TURN: TokenId = 2;

struct Script;

struct Quill {
    text: String,
    /// How much of it is shown.
    shown: usize,
}

impl Language for Script {
    fn encode(&self, request: &Request) -> Result<Vec<TokenId>, Refusal> {
        let Prompt::Chat(messages) = &request.prompt else { panic!("a conversation") };
        let mut tokens = self.tokenize(&self.apply_template(messages)?, false, false);
        tokens.push(TURN);
        Ok(tokens)
    }
    fn apply_template(&self, messages: &[Message]) -> Result<String, Refusal> {
        Ok(messages.iter().map(|m| serde_json::to_string(m).unwrap() + "\n").collect())
    }
    fn tokenize(&self, text: &str, _: bool, _: bool) -> Vec<TokenId> {
        text.bytes().map(TokenId::from).collect()
    }
    fn detokenize(&self, tokens: &[TokenId]) -> Result<String, Refusal> {
        Ok(tokens.iter().map(|&token| char::from(token as u8)).collect())
    }
    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        vec![token as u8]
    }
    fn begin(&self, _: &Request, _: &[TokenId]) -> Result<Box<dyn Writer>, Refusal> {
        Ok(Box::new(Quill { text: String::new(), shown: 0 }))
    }
}

impl Writer for Quill {
    fn next(&mut self, logits: &[f32]) -> Result<Written, Refusal> {
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        self.replay(best.unwrap_or(0) as TokenId)
    }
    fn replay(&mut self, token: TokenId) -> Result<Written, Refusal> {
        let mut written = Written { token, pieces: Vec::new(), logprob: None, end: None };
        if token != 0 {
            self.text.push(char::from(token as u8));
            if !self.text.contains('|') {
                written.pieces.push(Piece::Text(self.text[self.shown..].into()));
                self.shown = self.text.len();
            }
            return Ok(written);
        }
        let calls = self.text.split('|').skip(1).enumerate().map(|(at, call)| {
            let (name, arguments) = call.trim().split_once(' ').unwrap();
            Call { id: format!("c{at}"), name: name.into(), arguments: arguments.into() }
        });
        let calls: Vec<Call> = calls.collect();
        written.end = Some(if calls.is_empty() { End::End } else { End::Calls(calls) });
        Ok(written)
    }
    fn finish(&mut self) -> Vec<Piece> {
        Vec::new()
    }
    fn score(&self, _: &[f32], _: TokenId) -> Option<Logprob> {
        None
    }
    fn echo(&mut self, _: TokenId) -> String {
        String::new()
    }
}

/// A model named `m` that plays this part.
pub(crate) fn model(part: Part) -> Loaded {
    let script = move |tokens: &[TokenId], logits: &mut [f32]| {
        let turn = tokens.iter().position(|&token| token == TURN).unwrap_or(tokens.len() - 1);
        let bytes: Vec<u8> = tokens[..turn].iter().map(|&token| token as u8).collect();
        let lines = String::from_utf8(bytes).unwrap();
        let messages: Vec<Message> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let said = part(&messages);
        let next = said.as_bytes().get(tokens.len() - turn - 1).copied().unwrap_or(0);
        logits[usize::from(next)] = 1.0;
    };
    let context = 1 << 16;
    let executor = Box::new(Scripted::new(256, context, script));
    let info = ModelInfo { name: "m".into(), context, ..ModelInfo::default() };
    Loaded { info, language: Arc::new(Script), executor }
}
