//! What a probe hears when the kernel has ended under the server.

#[path = "../../kernel/tests/scripted/mod.rs"]
mod player;
mod scripted;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use scripted::{Fake, Memory, OneModel, TwoKeys};
use tower::ServiceExt;
use yushan_kernel::{Kernel, Options};
use yushan_server::{Server, router};

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
    kernel.stop();
    assert_eq!(status().await, 503);
}
