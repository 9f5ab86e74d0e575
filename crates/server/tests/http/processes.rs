//! Processes with programs, and models that run none.

use std::sync::Arc;

use serde_json::json;
use yushan_abi::scripted::Scripted;
use yushan_abi::{Complete, ModelInfo};
use yushan_kernel::{Kernel, Loaded, Options};
use yushan_server::{Server, router};

use crate::house::House;
use crate::scripted::{Fake, MODEL, Memory, OneModel, TwoKeys};

fn kernel(models: &[&str]) -> Kernel {
    let loaded = models.iter().map(|name| Loaded {
        info: ModelInfo { name: name.to_string(), ..ModelInfo::default() },
        language: Fake::default().language(MODEL).expect("the only model"),
        executor: Box::new(Scripted::new(256, 64, |_: &[u32], logits: &mut [f32]| logits[0] = 1.0)),
    });
    Kernel::start(loaded.collect(), Options::default())
}

#[tokio::test]
async fn models_of_other_servers_run_no_programs() {
    for (models, said) in [
        (&["own/one", "own/two"][..], "expected one of own/one, own/two"),
        (&[], "this system has none now"),
    ] {
        let (fake, disk) = (Arc::new(Fake::default()), Arc::new(Memory::default()));
        let keys = Arc::new(TwoKeys::new(true));
        let mut server = Server::new(fake.clone(), disk.clone(), Arc::new(OneModel), keys.clone());
        server.kernel = Some(Arc::new(kernel(models)));
        let house = House { app: router(Arc::new(server)), fake, disk, keys };
        let reply = house.post("/v1/processes", json!({"model": MODEL, "task": "hello"})).await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["param"]), (400, &json!("model")), "{error}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("on another server") && message.contains(said), "{message}");
        // A model that nobody has is another fault.
        let reply = house.post("/v1/processes", json!({"model": "none", "task": "hello"})).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (404, &json!("model_not_found"))
        );
    }
}
