//! Drivers that work with the files of the caller's space.

use yushan_abi::{Invocation, ToolResult};

use super::SpaceError;

/// An error may name files, which others than the user may have named: it is no better than they are, nor than what the
/// caller has seen.
pub(crate) fn failed(error: &SpaceError, invocation: &Invocation<'_>) -> ToolResult {
    ToolResult::failed(error.to_string(), invocation.label.join(&error.labels()))
}

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
                    .map_err(|error| $crate::space::driver::failed(&error, invocation))
                    .and_then(|space| self.run(invocation, &space))
                    .unwrap_or_else(|refusal| refusal)
            }

            fn forked(&self, from: &str, to: &str) -> Result<(), String> {
                $crate::space::fork(&*self.disk, from, to).map_err(|error| error.to_string())
            }

            fn released(&self, space: &str) {
                $crate::space::kept::released(&self.disk, space);
            }
        }
    };
}

pub(crate) use tool_in_a_space;

#[cfg(test)]
mod tests;
