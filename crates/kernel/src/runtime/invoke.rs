//! Calls of tools by programs that are no processes of ours.

use std::sync::atomic::{AtomicU64, Ordering};

use yushan_abi::{
    Call, Cancel, Invocation, Label, Message, Prompt, Request, Role, Sources, ToolResult,
};

use super::{Kernel, calls, clock};
use crate::gate::Capability;
use crate::life::{Life, Program};
use crate::process::Pid;
use crate::syscall;

/// Calls that were made so.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Kernel {
    /// Makes one call for a user's program that is no process of ours. It passes the gate as a process's would whose user
    /// wrote the arguments and is not there to be asked; the journal does not have it. Blocks.
    pub fn invoke(&self, tenant: &str, space: &str, call: &Call, cancel: Cancel) -> ToolResult {
        let Some(tool) = self.world.tools.iter().find(|tool| tool.spec().name == call.name) else {
            let names: Vec<&str> =
                self.world.tools.iter().map(|tool| tool.spec().name.as_str()).collect();
            let (name, names) = (&call.name, names.join(", "));
            return syscall::failed(format!("there is no tool {name:?}; there are: {names}"));
        };
        let label = Label::of(Sources::USER).for_reader(tenant);
        let words = vec![Message::new(Role::User, call.arguments.clone(), label.clone())];
        let request = Request { tenant: tenant.into(), ..Request::new("", Prompt::Chat(words)) };
        let mut program = Program { space: space.into(), ..Program::new(request) };
        program.capabilities.insert(call.name.clone(), Capability::default());
        let life = Life::new(Pid(0), program);
        let arguments = match calls::permitted(&life, tool.as_ref(), call) {
            Ok(arguments) => arguments,
            Err(refused) => return refused,
        };
        let key = format!("program.{}", CALLS.fetch_add(1, Ordering::Relaxed));
        let invocation = Invocation {
            arguments: &arguments,
            key: &format!("{key}.{}", clock()),
            space: &life.space(),
            owner: tenant,
            label: &label,
            cancel,
        };
        syscall::run(tool.as_ref(), &invocation)
    }
}
