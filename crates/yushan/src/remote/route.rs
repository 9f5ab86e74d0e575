//! Several that complete, as one: each request goes to the first that has its model.
//!
//! The key decision: the order decides. The kernel comes first, so that no other server can take a
//! model's name from it.

use std::sync::Arc;

use yushan_abi::{Complete, Keep, Language, ModelInfo, Refusal, Request, Sink};

/// Those that complete, in order.
pub(crate) struct Route(pub(crate) Vec<Arc<dyn Complete>>);

impl Route {
    fn owner(&self, model: &str) -> Result<&Arc<dyn Complete>, Refusal> {
        let has = |one: &&Arc<dyn Complete>| one.models().iter().any(|info| info.name == model);
        self.0.iter().find(has).ok_or_else(|| Refusal::NoModel(model.into()))
    }
}

impl Complete for Route {
    fn complete(&self, request: Request, sink: Box<dyn Sink>) -> Result<(), Refusal> {
        self.owner(&request.model)?.complete(request, sink)
    }

    fn models(&self) -> Vec<ModelInfo> {
        let mut all: Vec<ModelInfo> = Vec::new();
        for info in self.0.iter().flat_map(|one| one.models()) {
            if all.iter().all(|other| other.name != info.name) {
                all.push(info);
            }
        }
        all
    }

    fn language(&self, model: &str) -> Result<Arc<dyn Language>, Refusal> {
        self.owner(model)?.language(model)
    }

    fn ready(&self, model: &str) -> Result<(), Refusal> {
        self.owner(model)?.ready(model)
    }

    fn keep(&self, model: &str, keep: Keep) -> bool {
        self.owner(model).is_ok_and(|owner| owner.keep(model, keep))
    }
}
