//! The suite that every table sink passes, on Cassandra.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use pelton::config::TableOutput;
use pelton::pipeline::Sink;
use pelton_tests::conformance::table::{Rows, TableBed};

use crate::cassandra_support::Keyspace;

struct CassandraBed(Keyspace);

impl CassandraBed {
    async fn new() -> Self {
        let keyspace = Keyspace::create().await;
        keyspace.cql("CREATE TABLE KS.suite (id text PRIMARY KEY, n bigint, s text)").await;
        Self(keyspace)
    }
}

impl Drop for CassandraBed {
    fn drop(&mut self) {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.0.remove()));
    }
}

#[async_trait]
impl TableBed for CassandraBed {
    async fn open(&self) -> Arc<dyn Sink> {
        Arc::new(self.0.sink(&self.0.table("suite")).await)
    }

    async fn open_expiring(&self, ttl: Duration) -> Arc<dyn Sink> {
        let output = TableOutput { ttl: Some(ttl), ..self.0.table("suite") };
        Arc::new(self.0.sink(&output).await)
    }

    async fn rows(&self) -> Rows {
        let select = format!("SELECT id, n, writetime(n), s, writetime(s) FROM {}.suite", self.0.name);
        let pager = self.0.session.query_iter(select, ()).await.expect("rows");
        type Found = (String, Option<i64>, Option<i64>, Option<String>, Option<i64>);
        let mut found = pager.rows_stream::<Found>().expect("their types");
        let mut rows = Rows::new();
        while let Some(row) = found.next().await {
            let (id, n, n_at, s, s_at) = row.expect("a row");
            let n = n.zip(n_at).map(|(value, at)| ("n".to_owned(), (value.into(), at)));
            let s = s.zip(s_at).map(|(value, at)| ("s".to_owned(), (value.into(), at)));
            rows.insert(id, n.into_iter().chain(s).collect());
        }
        rows
    }
}

pelton_tests::table_sink_suite!(CassandraBed::new().await);
