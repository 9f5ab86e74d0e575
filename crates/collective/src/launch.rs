//! Whether this process was started as one of several ranks, and the way to the others.

use crate::{Alone, Collective, Result};

/// What the environment says about ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The variable that says it.
    pub variable: &'static str,
    /// How many ranks were started.
    pub ranks: usize,
}

/// Counts that launchers set: Open MPI's mpirun, MPICH's and Intel's mpiexec, and `srun`. The last is
/// set for the tasks of a step alone: a program that a batch script starts by itself is one rank,
/// though Slurm counts the tasks of the job in `SLURM_NTASKS`.
const VARIABLES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// How many ranks a launcher started, if one did; `variable` looks a variable of the environment up.
pub fn launch(variable: &dyn Fn(&str) -> Option<String>) -> Option<Launch> {
    VARIABLES.iter().find_map(|name| {
        let ranks = variable(name)?.trim().parse().ok()?;
        (ranks >= 1).then_some(Launch { variable: name, ranks })
    })
}

/// The ranks this process was started among: [`Alone`] when no launcher says otherwise.
///
/// # Errors
/// [`crate::Error::NoMpi`] when there are several ranks and this build cannot reach them;
/// [`crate::Error::Mpi`] when MPI cannot be initialised.
pub fn connect() -> Result<Box<dyn Collective>> {
    choose(launch(&|name| std::env::var(name).ok()))
}

#[cfg(feature = "mpi")]
fn choose(launch: Option<Launch>) -> Result<Box<dyn Collective>> {
    match launch {
        Some(_) => Ok(Box::new(crate::Mpi::connect()?)),
        None => Ok(Box::new(Alone)),
    }
}

#[cfg(not(feature = "mpi"))]
fn choose(launch: Option<Launch>) -> Result<Box<dyn Collective>> {
    match launch {
        Some(Launch { variable, ranks }) if ranks > 1 => {
            Err(crate::Error::NoMpi { variable, ranks })
        }
        _ => Ok(Box::new(Alone)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], expected: Option<(&'static str, usize)>) {
        let look_up = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        };
        let expected = expected.map(|(variable, ranks)| Launch { variable, ranks });
        assert_eq!(launch(&look_up), expected, "{variables:?}");
    }

    #[test]
    fn launchers_are_recognised_by_what_they_set() {
        check(&[], None);
        check(&[("OMPI_COMM_WORLD_SIZE", "4")], Some(("OMPI_COMM_WORLD_SIZE", 4)));
        check(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")], Some(("PMI_SIZE", 2)));
        check(&[("SLURM_STEP_NUM_TASKS", " 6000 ")], Some(("SLURM_STEP_NUM_TASKS", 6000)));
        check(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")], None); // a batch script's own process
        check(&[("OMPI_COMM_WORLD_SIZE", "many")], None);
        check(&[("OMPI_COMM_WORLD_SIZE", "0")], None);
    }

    #[test]
    fn without_mpi_one_rank_trains_and_several_are_refused() {
        assert_eq!(choose(None).map(|ranks| ranks.ranks()), Ok(1));
        #[cfg(not(feature = "mpi"))]
        for (ranks, fits) in [(1, true), (2, false)] {
            let launch = Launch { variable: "PMI_SIZE", ranks };
            assert_eq!(choose(Some(launch)).is_ok(), fits);
            let said = choose(Some(launch)).err().map(|error| error.to_string());
            assert!(said.is_none_or(|said| said.contains("--features mpi")));
        }
    }
}
