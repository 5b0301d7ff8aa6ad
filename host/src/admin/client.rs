//! The other end of the admin interface, for the CLI.
//!
//! In: the address of a running daemon. Out: its status, or what it answered to a command. Blocks; never used inside
//! the daemon.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::view::{PipelineAnswer, Problem, SeekRequest};
use crate::pipeline::tap::{Sight, Wish};
use crate::shell;
use crate::status::reloads::{GenerationStatus, PipelineReload, ReloadAnswer, ReloadRequest};
use crate::status::{ProcessStatus, SeekAnswer, project_name};

/// How long to wait for a connection and for plain reads.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a command: a pause drains first, for as long as the project's `drain` says: ten minutes at most.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(630);

/// Speaks to one daemon.
#[derive(Debug, Clone)]
pub struct AdminClient {
    address: SocketAddr,
    /// The command that starts a daemon there.
    start: String,
    /// Whose daemon should answer, where that is known.
    project: Option<String>,
    agent: ureq::Agent,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens, or it does not answer.
    #[error(
        "no daemon answers at {address} ({message}); start one with `{start}`, or name another address with --admin"
    )]
    NoAnswer {
        /// What starts one.
        start: String,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        message: String,
    },
    /// The daemon has no such pipeline.
    #[error("{0}")]
    NoSuchPipeline(String),
    /// What was asked for cannot be: no such step, no such place.
    #[error("{0}")]
    Unfit(String),
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
    /// A daemon answers, but that of another project.
    #[error(
        "no daemon of {wanted} answers: at {address} is that of another project, {runs}; give each its own \
         `admin: {{ listen: … }}` in pelton.yaml, or ask whoever is there with --admin {address}"
    )]
    OtherProject {
        /// Where.
        address: SocketAddr,
        /// The project that it runs.
        runs: String,
        /// The project that was named.
        wanted: String,
    },
    /// Something answers that is no daemon of this version.
    #[error("what answers at {address} is no pelton daemon of this version: {message}")]
    Unreadable {
        /// Where.
        address: SocketAddr,
        /// What was wrong.
        message: String,
    },
}

impl AdminClient {
    /// For the daemon that listens on `address`; one that listens on every address is asked on loopback.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let mut address = address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(TIMEOUT))
            .proxy(None)
            .max_redirects(0)
            .build();
        Self { address, start: "pelton run".to_owned(), project: None, agent: config.new_agent() }
    }

    /// The same, where it is known whose daemon should answer.
    #[must_use]
    pub fn of_project(self, dir: &Path) -> Self {
        Self { start: format!("pelton run{}", shell::project(dir)), project: Some(project_name(dir)), ..self }
    }

    /// Makes sure that the daemon that answers is that of the project: an address is taken by whoever comes first.
    ///
    /// # Errors
    /// Where nobody answers, or the daemon of another project does.
    pub fn confirm_project(&self) -> Result<(), ClientError> {
        let Some(wanted) = &self.project else { return Ok(()) };
        match self.status()?.project {
            // A directory that is not there is one inside of a container.
            Some(runs) if runs != *wanted && Path::new(&runs).is_dir() => {
                Err(ClientError::OtherProject { address: self.address, runs, wanted: wanted.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Where the daemon is asked.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the daemon is doing.
    ///
    /// # Errors
    /// Where nobody answers, or not in this version's words.
    pub fn status(&self) -> Result<ProcessStatus, ClientError> {
        let request = self.agent.get(self.url("/status")).config().timeout_global(Some(TIMEOUT)).build();
        self.read(request.call())
    }

    /// Pauses a pipeline; answers when it stands still and what was done is committed, or when the drain's time is over.
    ///
    /// # Errors
    /// Where nobody answers, or the daemon refuses.
    pub fn pause(&self, pipeline: &str) -> Result<PipelineAnswer, ClientError> {
        self.command(pipeline, "pause")
    }

    /// Resumes a pipeline.
    ///
    /// # Errors
    /// Where nobody answers, or the daemon refuses.
    pub fn resume(&self, pipeline: &str) -> Result<PipelineAnswer, ClientError> {
        self.command(pipeline, "resume")
    }

    /// Moves a paused pipeline; answers when the new positions are committed.
    ///
    /// # Errors
    /// Where nobody answers, or the daemon refuses.
    pub fn seek(&self, pipeline: &str, wanted: &SeekRequest) -> Result<SeekAnswer, ClientError> {
        let url = self.url(&format!("/pipelines/{}/seek", percent_encoded(pipeline)));
        let request = self.agent.post(url).config().timeout_global(Some(COMMAND_TIMEOUT)).build();
        self.read(request.send_json(wanted))
    }

    /// Lets the daemon take over what has changed in its files.
    ///
    /// # Errors
    /// Where nobody answers, or nothing has such a name.
    pub fn reload(&self, request: &ReloadRequest) -> Result<ReloadAnswer, ClientError> {
        let post = self.agent.post(self.url("/reload")).config().timeout_global(Some(COMMAND_TIMEOUT)).build();
        self.read(post.send_json(request))
    }

    /// Lets the generation before be live again.
    ///
    /// # Errors
    /// Where nobody answers, or there is none.
    pub fn rollback(&self, pipeline: &str) -> Result<PipelineReload, ClientError> {
        self.command(pipeline, "rollback")
    }

    /// The generations of a pipeline, the newest last.
    ///
    /// # Errors
    /// Where nobody answers, or there is no such pipeline.
    pub fn generations(&self, pipeline: &str) -> Result<Vec<GenerationStatus>, ClientError> {
        let url = self.url(&format!("/pipelines/{}/generations", percent_encoded(pipeline)));
        self.read(self.agent.get(url).config().timeout_global(Some(TIMEOUT)).build().call())
    }

    /// The same, once a generation is no longer new, or after a while.
    ///
    /// # Errors
    /// As [`Self::generations`].
    pub fn generations_after(&self, pipeline: &str, number: u64) -> Result<Vec<GenerationStatus>, ClientError> {
        let url = self.url(&format!("/pipelines/{}/generations?after={number}", percent_encoded(pipeline)));
        self.read(self.agent.get(url).config().timeout_global(Some(COMMAND_TIMEOUT)).build().call())
    }

    /// Hands over live records until `each` says that it is enough, or the daemon ends.
    ///
    /// # Errors
    /// Where nobody answers, or the daemon refuses.
    pub fn tap(&self, pipeline: &str, wish: &Wish, mut each: impl FnMut(Sight) -> bool) -> Result<(), ClientError> {
        let step = wish.step.map(|step| format!("&step={step}")).unwrap_or_default();
        let query = format!("sample={}&payload={}{step}", wish.sample, wish.payload);
        let url = self.url(&format!("/pipelines/{}/tap?{query}", percent_encoded(pipeline)));
        let response = self.agent.post(url).send_empty();
        let response = match response {
            Ok(response) if response.status().is_success() => response,
            refused => return self.read::<Sight>(refused).map(drop),
        };
        let unreadable = |message: String| ClientError::Unreadable { address: self.address, message };
        for line in BufReader::new(response.into_body().into_reader()).lines() {
            let line = line.map_err(|error| unreadable(error.to_string()))?;
            if !each(serde_json::from_str(&line).map_err(|error| unreadable(error.to_string()))?) {
                break;
            }
        }
        Ok(())
    }

    fn command<T: DeserializeOwned>(&self, pipeline: &str, verb: &str) -> Result<T, ClientError> {
        let url = self.url(&format!("/pipelines/{}/{verb}", percent_encoded(pipeline)));
        let request = self.agent.post(url).config().timeout_global(Some(COMMAND_TIMEOUT)).build();
        self.read(request.send_empty())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn read<T: DeserializeOwned>(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let mut response = response.map_err(|error| ClientError::NoAnswer {
            start: self.start.clone(),
            address: self.address,
            message: error.to_string(),
        })?;
        let unreadable = |message: String| ClientError::Unreadable { address: self.address, message };
        let code = response.status();
        let text = response.body_mut().read_to_string().map_err(|error| unreadable(error.to_string()))?;
        if code.is_success() {
            return serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()));
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) if code == ureq::http::StatusCode::NOT_FOUND => Err(ClientError::NoSuchPipeline(problem.error)),
            Ok(problem) if code == ureq::http::StatusCode::BAD_REQUEST => Err(ClientError::Unfit(problem.error)),
            Ok(problem) => Err(ClientError::Refused(problem.error)),
            Err(_) => Err(unreadable(format!("it answers with status {code}"))),
        }
    }
}

/// A name as one segment of a path.
fn percent_encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
