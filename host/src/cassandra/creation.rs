//! The statement that makes a table like one that is there.
//!
//! In: a session, the name of a table, and a name that is free. Out: CREATE TABLE with the same columns, key and options,
//! in the cluster's own words. Never makes the table.

use super::errors::CassandraError;
use super::session::Cassandra;
use super::table::{ask, quoted, tables_of};

/// How to make `table` like `like`, both `keyspace.table`. None where there is nothing to make or nothing to learn from:
/// the table is there already, its keyspace is not, or the cluster cannot describe tables.
///
/// # Errors
/// Where the cluster cannot be asked.
pub async fn creation(cassandra: &Cassandra, like: &str, table: &str) -> Result<Option<String>, CassandraError> {
    let (Some((keyspace, name)), Some((its_keyspace, its_name))) = (table.split_once('.'), like.split_once('.')) else {
        return Ok(None);
    };
    let spaces: Vec<(String,)> = ask(cassandra, "SELECT keyspace_name FROM system_schema.keyspaces", ()).await?;
    let is_free = !tables_of(cassandra, keyspace).await?.iter().any(|there| there == name);
    if !is_free || !spaces.iter().any(|(space,)| space == keyspace) {
        return Ok(None);
    }
    let describe = format!("DESCRIBE TABLE {}.{}", quoted(its_keyspace), quoted(its_name));
    // A statement of Cassandra since 4.0; what is older has it in its shell alone.
    let described: Vec<(String, String, String, String)> = ask(cassandra, &describe, ()).await.unwrap_or_default();
    let statement = described.into_iter().find(|(_, kind, ..)| kind == "table").map(|(.., statement)| statement);
    let name = format!("{}.{}", quoted(keyspace), quoted(name));
    Ok(statement.and_then(|statement| renamed(&statement, &name)))
}

/// The same statement for another table.
fn renamed(statement: &str, name: &str) -> Option<String> {
    let rest = statement.trim().strip_prefix("CREATE TABLE ")?;
    let mut is_quoted = false;
    let columns = rest.find(|character| {
        is_quoted ^= character == '"';
        character == '(' && !is_quoted
    })?;
    Some(format!("CREATE TABLE {name} {}", rest.get(columns..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_kept_but_for_the_tables_name() {
        let statement = "CREATE TABLE shop.\"odd (\"\" name\" (\n    id text PRIMARY KEY\n) WITH comment = '(';\n";
        let renamed = renamed(statement, "\"shop\".\"copy\"");
        assert_eq!(
            renamed.as_deref(),
            Some("CREATE TABLE \"shop\".\"copy\" (\n    id text PRIMARY KEY\n) WITH comment = '(';")
        );
        assert_eq!(super::renamed("CREATE INDEX x", "y"), None);
    }
}
