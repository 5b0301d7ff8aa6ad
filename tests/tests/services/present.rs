//! The services are there. What fails here says why everything else does.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

fn listens(what: &str, address: &str) {
    let mut addresses = address.to_socket_addrs().unwrap_or_else(|error| panic!("{address}: {error}"));
    let address = addresses.next().unwrap_or_else(|| panic!("{address} is no address"));
    TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .unwrap_or_else(|error| panic!("{what} is absent: {address}: {error}; `make services` starts it"));
}

#[test]
fn kafka_is_there() {
    listens("Kafka", &pelton_tests::services::kafka_brokers());
}

#[test]
fn cassandra_is_there() {
    listens("Cassandra", &pelton_tests::services::cassandra_contact_point());
}
