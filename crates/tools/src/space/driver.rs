//! Drivers that work with the files of the caller's space.

/// Makes a type with the fields `spec` and `disk` a tool: its `run(&self, &Invocation, &Space)` gets the space, and what
/// it refuses is the answer. No trait can do this: a type of ours may get `Tool`, which is not ours, one by one alone.
macro_rules! tool_in_a_space {
    ($driver:ty) => {
        impl yushan_abi::Tool for $driver {
            fn spec(&self) -> &yushan_abi::ToolSpec {
                &self.spec
            }

            fn call(&self, invocation: &yushan_abi::Invocation<'_>) -> yushan_abi::ToolResult {
                let disk = std::sync::Arc::clone(&self.disk);
                let space = $crate::space::Space::open(disk, invocation.owner, invocation.space);
                space
                    .map_err(|error| $crate::arguments::refused(error.to_string()))
                    .and_then(|space| self.run(invocation, &space))
                    .unwrap_or_else(|refusal| refusal)
            }

            fn forked(&self, from: &str, to: &str) -> Result<(), String> {
                $crate::space::fork(&*self.disk, from, to).map_err(|error| error.to_string())
            }
        }
    };
}

pub(crate) use tool_in_a_space;
