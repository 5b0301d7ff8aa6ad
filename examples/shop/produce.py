"""Sends two events of an order to the shop: python produce.py ORDER_ID"""

import json
import os
import sys
import time

from confluent_kafka import Producer

order_id = sys.argv[1] if len(sys.argv) > 1 else "A-2"
now_ms = int(time.time() * 1000)
events = [
    {
        "order_id": order_id,
        "kind": "created",
        "ts": now_ms,
        "customer": {"id": "c-2", "country": "FR"},
        "currency": "EUR",
        "amount_cents": 2990,
        "items": [{"sku": "TEA-1", "name": "Thé vert", "quantity": 1, "price_cents": 2990}],
    },
    {"order_id": order_id, "kind": "paid", "ts": now_ms + 1},
]

producer = Producer(
    {
        "bootstrap.servers": os.environ.get("PELTON_KAFKA", "127.0.0.1:9092"),
        # Kafka's own rule, which is not librdkafka's: all events of an order stand in one partition.
        "partitioner": "murmur2_random",
        # What is sent again neither doubles nor overtakes.
        "enable.idempotence": True,
    }
)


def delivered(error, message):
    if error is not None:
        sys.exit(f"not delivered: {error}")
    print(f"{message.topic()}/{message.partition()}/{message.offset()}")


for event in events:
    value = json.dumps(event, ensure_ascii=False)
    producer.produce("shop.orders", key=order_id, value=value, on_delivery=delivered)
if producer.flush(30) > 0:
    sys.exit("the broker has not answered within 30 s")
