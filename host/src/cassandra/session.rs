//! The connection to a cluster.
//!
//! In: `cassandra:` of `pelton.yaml`. Out: a session of the driver that prepares and executes, without the driver's own
//! retries (the sink has its own, which never takes a time-out for success). The driver reconnects by itself. Never
//! shows a password.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;

use super::errors::CassandraError;
use super::tls;
use crate::config::{CassandraConnection, Consistency};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above Cassandra's own write timeout (2 s by default), so that its answer comes first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is given up after twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A session with a cluster; shared by all sinks.
pub struct Cassandra {
    session: Session,
    contact_points: String,
    consistency: Consistency,
}

impl std::fmt::Debug for Cassandra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cassandra").field("contact_points", &self.contact_points).finish_non_exhaustive()
    }
}

impl Cassandra {
    /// The addresses that it was given, for messages.
    #[must_use]
    pub fn contact_points(&self) -> &str {
        &self.contact_points
    }

    /// The consistency of writes where a table names none.
    #[must_use]
    pub fn consistency(&self) -> Consistency {
        self.consistency
    }

    /// The datacentres of the cluster, with their number of nodes.
    pub(crate) fn datacentres(&self) -> BTreeMap<String, usize> {
        let mut datacentres = BTreeMap::new();
        for node in self.session.get_cluster_state().get_nodes_info() {
            if let Some(name) = &node.datacenter {
                *datacentres.entry(name.clone()).or_default() += 1;
            }
        }
        datacentres
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// Connects. From here on the driver keeps the connections up by itself.
///
/// # Errors
/// Where nobody answers, the login is refused, a TLS file cannot be used, or the datacentre does not exist or is not
/// named although there are several. [`CassandraError::is_transient`] says whether waiting may help.
pub async fn connect(settings: &CassandraConnection) -> Result<Arc<Cassandra>, CassandraError> {
    let contact_points = settings.contact_points.join(", ");
    if settings.contact_points.is_empty() {
        let message = "no address; write at least one `host` or `host:port`".into();
        return Err(CassandraError::Setting { key: "contact_points", message });
    }
    let mut builder = SessionBuilder::new()
        .known_nodes(&settings.contact_points)
        .default_execution_profile_handle(profile(settings).into_handle())
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(KEEPALIVE)
        .tcp_nodelay(true)
        // Types and keys are asked for where they are needed; the driver only routes.
        .fetch_full_schema_metadata(false);
    match (&settings.username, &settings.password) {
        (Some(user), Some(password)) => builder = builder.user(user, password.expose()),
        (Some(_), None) => {
            let message = "is missing, but `username` is given; write `password: ${NAME}`".into();
            return Err(CassandraError::Setting { key: "password", message });
        }
        (None, Some(_)) => {
            let message = "is missing, but `password` is given".into();
            return Err(CassandraError::Setting { key: "username", message });
        }
        (None, None) => {}
    }
    if let Some(tls) = &settings.tls {
        builder = builder.tls_context(Some(tls::context(tls, &settings.contact_points)?));
    }
    let session = builder.build().await.map_err(|error| CassandraError::new_session(&contact_points, &error))?;
    check_datacentre(&session, settings.local_datacenter.as_deref())?;
    Ok(Arc::new(Cassandra { session, contact_points, consistency: settings.consistency }))
}

fn profile(settings: &CassandraConnection) -> ExecutionProfile {
    // Without failover: LOCAL_QUORUM in another datacentre would be another promise than the one that was configured.
    let balancing = DefaultPolicy::builder().token_aware(true).permit_dc_failover(false);
    let balancing = match &settings.local_datacenter {
        Some(name) => balancing.prefer_datacenter(name.clone()),
        None => balancing,
    };
    ExecutionProfile::builder()
        .consistency(driver_consistency(settings.consistency))
        .load_balancing_policy(balancing.build())
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build()
}

fn check_datacentre(session: &Session, local: Option<&str>) -> Result<(), CassandraError> {
    let state = session.get_cluster_state();
    let mut names: Vec<_> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
    names.sort();
    names.dedup();
    let message = match local {
        Some(local) if !names.is_empty() && !names.iter().any(|name| name == local) => {
            format!("the cluster has no datacentre {local:?}; it has {}", names.join(", "))
        }
        None if names.len() > 1 => {
            format!("is missing, and the cluster has several datacentres; write one of {}", names.join(", "))
        }
        _ => return Ok(()),
    };
    Err(CassandraError::Setting { key: "local_datacenter", message })
}

pub(crate) fn driver_consistency(consistency: Consistency) -> scylla::statement::Consistency {
    match consistency {
        Consistency::One => scylla::statement::Consistency::One,
        Consistency::LocalOne => scylla::statement::Consistency::LocalOne,
        Consistency::Quorum => scylla::statement::Consistency::Quorum,
        Consistency::LocalQuorum => scylla::statement::Consistency::LocalQuorum,
        Consistency::EachQuorum => scylla::statement::Consistency::EachQuorum,
        Consistency::All => scylla::statement::Consistency::All,
    }
}
