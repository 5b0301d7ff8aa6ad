//! Where the running daemon of a project answers: for the verbs that ask it.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failure, is_no_project};
use crate::admin::client::{AdminClient, ClientError};
use crate::config;
use crate::shell;

/// How long an address of several is given to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Which daemon to ask.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// The project directory; its pelton.yaml says where the daemon listens
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Ask the daemon at this address, whatever pelton.yaml says; a name must be this machine's
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    admin: Option<SocketAddr>,
}

/// One pipeline of a running daemon.
#[derive(Debug, clap::Args)]
pub(super) struct PipelineArgs {
    /// The pipeline's name: the stem of its file
    pub(super) pipeline: String,
    #[command(flatten)]
    pub(super) daemon: DaemonArgs,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// An address, or a name of this machine: who answers under another machine's name is up to whoever answers for names.
fn address(text: &str) -> Result<SocketAddr, String> {
    const WHAT: &str = "write a host and a port, like 127.0.0.1:8787 or localhost:8787";
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or(WHAT)?;
    port.parse::<u16>().map_err(|_| WHAT)?;
    let found: Vec<SocketAddr> = text.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?.collect();
    if let Some(other) = found.iter().find(|address| !address.ip().is_loopback()) {
        return Err(format!("{host} is {}, another machine or open to others: write the address itself", other.ip()));
    }
    // A name may stand for two addresses, of which the daemon listens on one.
    let answers = |address: &&SocketAddr| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_ok();
    let address = found.iter().find(answers).or_else(|| found.first());
    address.copied().ok_or_else(|| format!("{host} has no address"))
}

impl DaemonArgs {
    /// Nobody has named a daemon: that of the project here is meant.
    pub(super) fn is_unnamed(&self) -> bool {
        self.admin.is_none() && self.dir == Path::new(".")
    }

    /// The same, of the project in a directory.
    pub(super) fn of(self, dir: PathBuf) -> Self {
        Self { dir, ..self }
    }

    /// What leads a further command to the same daemon, with a space before it; nothing where nothing is needed.
    pub(super) fn again(&self) -> String {
        match self.admin {
            Some(address) => format!(" --admin {address}"),
            None => shell::project(&self.dir),
        }
    }

    /// A client for the daemon that is meant; refused where another project's answers.
    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        if let Some(address) = self.admin {
            return Ok(AdminClient::new(address));
        }
        if is_no_project(&self.dir) {
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
        let client = AdminClient::new(project.settings.admin).of_project(&self.dir);
        client.confirm_project().map_err(failure)?;
        Ok(client)
    }
}

/// Nobody there, and what cannot be asked for, are classes of their own for scripts.
pub(super) fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::NoAnswer { .. } => Failure::unavailable(error),
        ClientError::NoSuchPipeline(_) | ClientError::Unfit(_) => Failure::usage(error),
        ClientError::Refused(_) | ClientError::OtherProject { .. } | ClientError::Unreadable { .. } => {
            Failure::new(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Exit;
    use super::*;

    #[test]
    fn names_of_this_machine_are_addresses_too() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let listens = listener.local_addr().expect("bound");
        assert_eq!(address(&format!("localhost:{}", listens.port())), Ok(listens));
        assert_eq!(address("10.0.0.7:1"), "10.0.0.7:1".parse().map_err(|_| String::new()));
        assert_eq!(address("[::1]:1"), "[::1]:1".parse().map_err(|_| String::new()));
        for wrong in ["localhost", "localhost:", "localhost:http", "localhost:70000", "", ":"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        // A name that stands for an address which others can reach.
        let open = address("0.0.0.0.:1").or_else(|_| address("0:1"));
        assert!(open.is_err(), "{open:?}");
    }

    #[test]
    fn what_cannot_be_asked_for_is_a_mistake_of_the_command_line() {
        let exit = |error| failure(error).exit;
        assert_eq!(exit(ClientError::Unfit("there is no step 9".into())), Exit::Usage);
        assert_eq!(exit(ClientError::NoSuchPipeline("no pipeline".into())), Exit::Usage);
        assert_eq!(exit(ClientError::Refused("it runs".into())), Exit::Failed);
    }
}
