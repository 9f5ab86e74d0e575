//! Every route over the scripted fakes, in process: a file for each subject, over one `house`.

mod doors;
mod house;
mod kept;
mod metered;
mod ollama;
mod openai;
mod plain;
mod processes;
mod responses;
#[path = "../scripted/mod.rs"]
mod scripted;
