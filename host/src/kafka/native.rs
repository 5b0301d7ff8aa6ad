//! The few calls of librdkafka that its safe wrapper lacks, or in which it panics on bytes from outside.
//!
//! In: handles that the wrapper owns. Out: owned Rust values. Every pointer that is obtained here is freed here; nothing
//! borrowed from the client leaves. Never keeps a handle beyond a call.
#![expect(unsafe_code, reason = "calls of librdkafka that its safe wrapper lacks; each says why it is sound")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys as sys;

/// Frees what the C library allocated when it goes out of scope.
struct Owned<T> {
    pointer: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, free })
    }

    fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `free` is the destructor that belongs to the call that gave the pointer, and this is its only owner.
        unsafe { (self.free)(self.pointer.as_ptr()) }
    }
}

/// The ids that topics have now, by name. A topic that does not exist, or has no id (an old or an embedded broker), is
/// absent from the answer.
///
/// # Errors
/// Where nobody answers within the time.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, String>, String> {
    let names: Vec<CString> = topics.iter().filter_map(|name| CString::new(*name).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    if pointers.is_empty() {
        return Ok(HashMap::new());
    }
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let missing = || "the client is out of memory".to_owned();
    // SAFETY: `client` keeps the handle alive during this call; the names outlive the collection, which copies them;
    // options, queue and event are owned here and freed in the reverse order; the result borrows from the event and is
    // copied before that is freed.
    unsafe {
        let handle = client.native_ptr();
        let collection = Owned::new(
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            sys::rd_kafka_TopicCollection_destroy,
        )
        .ok_or_else(missing)?;
        let options = Owned::new(
            sys::rd_kafka_AdminOptions_new(handle, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            sys::rd_kafka_AdminOptions_destroy,
        )
        .ok_or_else(missing)?;
        let mut text: [c_char; 256] = [0; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout_ms, text.as_mut_ptr(), text.len());
        let queue = Owned::new(sys::rd_kafka_queue_new(handle), sys::rd_kafka_queue_destroy).ok_or_else(missing)?;
        sys::rd_kafka_DescribeTopics(handle, collection.as_ptr(), options.as_ptr(), queue.as_ptr());
        let event = Owned::new(
            sys::rd_kafka_queue_poll(queue.as_ptr(), timeout_ms.saturating_add(1_000)),
            sys::rd_kafka_event_destroy,
        )
        .ok_or_else(|| "no answer in time".to_owned())?;
        let code = sys::rd_kafka_event_error(event.as_ptr());
        if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(text_of(sys::rd_kafka_event_error_string(event.as_ptr())));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err("an answer to another question".to_owned());
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut ids = HashMap::new();
        for index in 0..count {
            let topic = *described.add(index);
            let error = sys::rd_kafka_TopicDescription_error(topic);
            if sys::rd_kafka_error_code(error) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                continue;
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            let is_known = !id.is_null()
                && (sys::rd_kafka_Uuid_most_significant_bits(id) != 0
                    || sys::rd_kafka_Uuid_least_significant_bits(id) != 0);
            if is_known {
                let name = text_of(sys::rd_kafka_TopicDescription_name(topic));
                ids.insert(name, text_of(sys::rd_kafka_Uuid_base64str(id)));
            }
        }
        Ok(ids)
    }
}

/// One entry of a list of committed offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The topic's name.
    pub(super) topic: String,
    /// The partition's number.
    pub(super) partition: i32,
    /// The raw offset; negative where there is none.
    pub(super) offset: i64,
    /// What was committed beside it; what is not UTF-8 is replaced, where the wrapper would panic.
    pub(super) metadata: Option<String>,
    /// What went wrong with this entry.
    pub(super) error: Option<String>,
}

/// Copies a list.
pub(super) fn entries(list: &TopicPartitionList) -> Vec<Entry> {
    // SAFETY: the wrapper owns the list, and it is borrowed for the time of this call.
    unsafe { entries_of(list.ptr()) }
}

/// Copies a list.
///
/// # Safety
/// `list` is null or a list that lives during the call.
unsafe fn entries_of(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<Entry> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: `cnt` elements stand at `elems`; names end with NUL; metadata are `metadata_size` bytes or null.
    unsafe {
        let raw = &*list;
        let count = usize::try_from(raw.cnt).unwrap_or(0);
        (0..count)
            .map(|index| {
                let element = &*raw.elems.add(index);
                let metadata = (!element.metadata.is_null() && element.metadata_size > 0).then(|| {
                    let bytes = std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size);
                    String::from_utf8_lossy(bytes).into_owned()
                });
                let error = (element.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR)
                    .then(|| text_of(sys::rd_kafka_err2str(element.err)));
                Entry {
                    topic: text_of(element.topic),
                    partition: element.partition,
                    offset: element.offset,
                    metadata,
                    error,
                }
            })
            .collect()
    }
}

/// Commits that are sent without waiting, and their answers. The wrapper's own asynchronous commit never tells what
/// became of it. Belongs to the thread that polls, and must be dropped before the client.
pub(super) struct CommitQueue {
    queue: Owned<sys::rd_kafka_queue_t>,
}

/// What became of a commit that was sent.
pub(super) struct CommitAnswer {
    /// Which.
    pub(super) number: usize,
    /// What went wrong with all of it.
    pub(super) error: Option<String>,
    /// Its positions.
    pub(super) entries: Vec<Entry>,
}

impl CommitQueue {
    pub(super) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the handle is alive while `client` is borrowed; whoever keeps the queue drops it before the client.
        let queue = unsafe { sys::rd_kafka_queue_new(client.native_ptr()) };
        Owned::new(queue, sys::rd_kafka_queue_destroy).map(|queue| Self { queue })
    }

    /// Sends a commit; `number` comes back with its answer.
    pub(super) fn send<C: ClientContext>(
        &self,
        client: &Client<C>,
        list: &TopicPartitionList,
        number: usize,
    ) -> Result<(), String> {
        // SAFETY: handle, list and queue live during the call, which copies the list and keeps the queue alive itself.
        unsafe {
            let code = sys::rd_kafka_commit_queue(
                client.native_ptr(),
                list.ptr(),
                self.queue.as_ptr(),
                None,
                // Never followed: a number, carried through.
                std::ptr::without_provenance_mut(number),
            );
            if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                Ok(())
            } else {
                Err(text_of(sys::rd_kafka_err2str(code)))
            }
        }
    }

    /// An answer, where one is there or comes within the time.
    pub(super) fn answer(&self, within: Duration) -> Option<CommitAnswer> {
        let within_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is owned; the event is freed here, and what it lends is copied before.
        unsafe {
            let event =
                Owned::new(sys::rd_kafka_queue_poll(self.queue.as_ptr(), within_ms), sys::rd_kafka_event_destroy)?;
            if sys::rd_kafka_event_type(event.as_ptr()) != sys::RD_KAFKA_EVENT_OFFSET_COMMIT {
                return None;
            }
            let code = sys::rd_kafka_event_error(event.as_ptr());
            let is_fine = code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            Some(CommitAnswer {
                number: sys::rd_kafka_event_opaque(event.as_ptr()).addr(),
                error: (!is_fine).then(|| text_of(sys::rd_kafka_err2str(code))),
                entries: entries_of(sys::rd_kafka_event_topic_partition_list(event.as_ptr())),
            })
        }
    }
}

/// Calls `each` with the headers of a message, in order; names that are not UTF-8 are replaced, where the wrapper would
/// panic.
pub(super) fn for_each_header(message: &BorrowedMessage<'_>, mut each: impl FnMut(&str, Option<&[u8]>)) {
    // SAFETY: the message is borrowed for the time of this call, and owns its headers; names end with NUL; values are
    // `size` bytes or null. What `each` gets lives no longer than the message.
    unsafe {
        let mut headers = std::ptr::null_mut();
        if sys::rd_kafka_message_headers(message.ptr(), &raw mut headers)
            != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            || headers.is_null()
        {
            return;
        }
        for index in 0..sys::rd_kafka_header_cnt(headers) {
            let mut name = std::ptr::null();
            let mut value: *const c_void = std::ptr::null();
            let mut size = 0;
            let code = sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size);
            if code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return;
            }
            let name = CStr::from_ptr(name).to_string_lossy();
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            each(&name, value);
        }
    }
}

/// A copy of a text that ends with NUL; empty where there is none.
///
/// # Safety
/// `text` is null or points to a text that ends with NUL.
unsafe fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
