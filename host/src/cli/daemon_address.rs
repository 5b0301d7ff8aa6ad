//! Where the running daemon of a project answers: for the verbs that ask it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Failure;
use crate::admin::client::{AdminClient, ClientError};
use crate::config;

/// Which daemon to ask.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// The project directory; its pelton.yaml says where the daemon listens
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Ask the daemon at this address, whatever pelton.yaml says
    #[arg(long, value_name = "HOST:PORT")]
    admin: Option<SocketAddr>,
}

impl DaemonArgs {
    /// A client for the daemon that is meant.
    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        if let Some(address) = self.admin {
            return Ok(AdminClient::new(address));
        }
        if !self.dir.join("pelton.yaml").is_file() {
            return Err(Failure::usage(format_args!(
                "there is no pelton.yaml in {}; name the project directory, or the daemon's address with --admin",
                self.dir.display()
            )));
        }
        let project = config::read(&self.dir, &config::ProcessEnvironment);
        // Only what is wrong with the address matters here: a daemon may run while its files are being edited.
        let about_address = |problem: &&config::Problem| problem.is_error() && problem.key.starts_with("admin");
        if let Some(problem) = project.problems.iter().find(about_address) {
            return Err(Failure::new(problem));
        }
        Ok(AdminClient::new(project.settings.admin))
    }
}

/// Nobody there is a class of its own for scripts.
pub(super) fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::NoAnswer { .. } => Failure::unavailable(error),
        ClientError::Refused(_) | ClientError::Unreadable { .. } => Failure::new(error),
    }
}
