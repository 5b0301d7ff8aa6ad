//! The few calls of librdkafka that its safe wrapper lacks, or in which it panics on bytes from outside.
//!
//! In: handles that the wrapper owns. Out: owned Rust values. Every pointer that is obtained here is freed here; nothing
//! borrowed from the client leaves. Never keeps a handle beyond a call.
#![expect(unsafe_code, reason = "calls of librdkafka that its safe wrapper lacks; each says why it is sound")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka_sys as sys;

use crate::record::TopicPartition;

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

// ------------------------------------------------------------------------------------------------ a partition's queue

type Signal = Box<dyn Fn() + Send + Sync>;

/// A partition's own queue, split off its consumer's. The wrapper's own forgets how far a partition was read where it
/// ends.
pub(super) struct PartitionQueue<C: ConsumerContext + 'static> {
    queue: Owned<sys::rd_kafka_queue_t>,
    /// Two boxes: what is handed to the client is one word.
    signal: Option<Box<Signal>>,
    /// Outlives the queue.
    _consumer: Arc<BaseConsumer<C>>,
}

/// What a partition's queue gave.
pub(super) enum Polled<'q> {
    /// A record.
    Record(Message<'q>),
    /// The end of the partition: everything below this offset was given, or is no record.
    End(i64),
    /// An error, in the client's words.
    Error(RDKafkaErrorCode, String),
}

/// A record as the client lends it.
pub(super) struct Message<'q> {
    message: NonNull<sys::rd_kafka_message_t>,
    /// Owns the message.
    _event: Owned<sys::rd_kafka_event_t>,
    _queue: PhantomData<&'q ()>,
}

// SAFETY: the client's queues may be used from any thread, and destroyed on any.
unsafe impl<C: ConsumerContext + 'static> Send for PartitionQueue<C> {}

impl<C: ConsumerContext + 'static> PartitionQueue<C> {
    /// Splits a partition's queue off.
    pub(super) fn split(consumer: &Arc<BaseConsumer<C>>, partition: &TopicPartition) -> Option<Self> {
        let topic = CString::new(&*partition.topic).ok()?;
        // SAFETY: handle and name live during the calls; the queue is owned from the moment that it is given.
        let queue = unsafe {
            let handle = consumer.client().native_ptr();
            let queue = sys::rd_kafka_queue_get_partition(handle, topic.as_ptr(), partition.partition);
            let queue = Owned::new(queue, sys::rd_kafka_queue_destroy)?;
            sys::rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut());
            queue
        };
        Some(Self { queue, signal: None, _consumer: Arc::clone(consumer) })
    }

    /// From now on `signal` is called when the queue has something, on a thread of the client's, which holds the
    /// queue's lock meanwhile.
    pub(super) fn call_when_ready(&mut self, signal: impl Fn() + Send + Sync + 'static) {
        unsafe extern "C" fn call(_: *mut sys::rd_kafka_t, signal: *mut c_void) {
            // SAFETY: the box that was handed over below, alive until the callback is taken back.
            unsafe { (*signal.cast::<Signal>().cast_const())() }
        }
        let signal: Box<Signal> = Box::new(Box::new(signal));
        // SAFETY: the inner box stands still while the queue has it: until the next call, or until `drop` takes it back.
        unsafe {
            let opaque = std::ptr::from_ref::<Signal>(&signal).cast_mut().cast();
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), Some(call), opaque);
        }
        self.signal = Some(signal);
    }

    /// What the queue has, without waiting.
    pub(super) fn poll(&self) -> Option<Polled<'_>> {
        // SAFETY: the queue is owned; each event is freed here or with the message that it owns; a message lives as long
        // as its event.
        unsafe {
            loop {
                let event = Owned::new(sys::rd_kafka_queue_poll(self.queue.as_ptr(), 0), sys::rd_kafka_event_destroy)?;
                match sys::rd_kafka_event_type(event.as_ptr()) {
                    sys::RD_KAFKA_EVENT_FETCH => {
                        let message = sys::rd_kafka_event_message_next(event.as_ptr()).cast_mut();
                        if let Some(message) = NonNull::new(message) {
                            return Some(Polled::Record(Message { message, _event: event, _queue: PhantomData }));
                        }
                    }
                    sys::RD_KAFKA_EVENT_ERROR => return Some(error_of(&event)),
                    _ => {}
                }
            }
        }
    }
}

/// What an event of an error says.
///
/// # Safety
/// It is such an event.
unsafe fn error_of<'q>(event: &Owned<sys::rd_kafka_event_t>) -> Polled<'q> {
    // SAFETY: the event is borrowed during the calls; the partition is owned from the moment that it is given, and read
    // before it is freed.
    unsafe {
        let code = sys::rd_kafka_event_error(event.as_ptr());
        let partition = sys::rd_kafka_event_topic_partition(event.as_ptr());
        let partition = Owned::new(partition, sys::rd_kafka_topic_partition_destroy);
        match partition {
            Some(partition) if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Polled::End((*partition.as_ptr()).offset)
            }
            _ => Polled::Error(code.into(), text_of(sys::rd_kafka_event_error_string(event.as_ptr()))),
        }
    }
}

impl<C: ConsumerContext + 'static> Drop for PartitionQueue<C> {
    fn drop(&mut self) {
        // SAFETY: the queue is owned; after this nobody calls the signal any more, which is freed next.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, std::ptr::null_mut()) }
    }
}

impl Message<'_> {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the event that owns the message lives as long as `self`.
        unsafe { self.message.as_ref() }
    }

    pub(super) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Milliseconds since 1970, where the record has a time.
    pub(super) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: as in `raw`.
        let ms = unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        let is_known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (is_known && ms >= 0).then_some(ms)
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: `key` is `key_len` bytes or null, and lives as long as `self`.
        unsafe { bytes_of(raw.key, raw.key_len) }
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: `payload` is `len` bytes or null, and lives as long as `self`.
        unsafe { bytes_of(raw.payload, raw.len) }
    }

    /// Calls `each` with the headers, in order; names that are not UTF-8 are replaced, where the wrapper would panic.
    pub(super) fn for_each_header(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        // SAFETY: the message lives during this call, and owns its headers; names end with NUL; values are `size` bytes
        // or null. What `each` gets lives no longer than the message.
        unsafe {
            let mut headers = std::ptr::null_mut();
            if sys::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers)
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
                each(&CStr::from_ptr(name).to_string_lossy(), bytes_of(value, size));
            }
        }
    }
}

/// Bytes that the client lends; none where there are none, apart from empty ones.
///
/// # Safety
/// `bytes` is null, or `length` bytes that live as long as the result.
unsafe fn bytes_of<'b>(bytes: *const c_void, length: usize) -> Option<&'b [u8]> {
    // SAFETY: the caller's promise.
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) })
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
