//! What a probe hears when the kernel has died under the server.

#[path = "../../kernel/tests/scripted/mod.rs"]
mod player;
mod scripted;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use scripted::{Fake, Memory, OneModel, TwoKeys};
use tower::ServiceExt;
use yushan_abi::{Event, Flow, Label, Message, Prompt, Role, Sink};
use yushan_kernel::{Kernel, Options, Program};
use yushan_server::{Server, router};

/// Takes the thread that writes to it down.
struct Broken;

impl Sink for Broken {
    fn push(&mut self, _: Event) -> Flow {
        panic!("as this test wants");
    }

    fn is_ready(&mut self) -> Flow {
        Flow::More
    }
}

#[tokio::test]
async fn a_kernel_that_has_ended_is_told() {
    let kernel = Kernel::start(vec![player::model(|_| "so".into())], Options::default());
    let kernel = Arc::new(kernel);
    let keys = Arc::new(TwoKeys::new(true));
    let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
    let mut server = Server::new(fake, disk, Arc::new(OneModel), keys);
    server.kernel = Some(kernel.clone());
    let app = router(Arc::new(server));
    let status = async || {
        let request = Request::get("/health").header("host", "localhost");
        let reply = app.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
        reply.expect("a reply").status().as_u16()
    };
    assert_eq!(status().await, 200);
    let message = Message::new(Role::User, "go", Label::default());
    let request = yushan_abi::Request::new("m", Prompt::Chat(vec![message]));
    kernel.spawn(Program::new(request), Box::new(Broken)).expect("it begins");
    while kernel.is_alive() {
        tokio::task::yield_now().await;
    }
    assert_eq!(status().await, 503);
}
