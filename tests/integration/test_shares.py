"""What the tokens of one subject may take, over the wire."""

import time
from pathlib import Path

import grpc

from switchboard.v1.event_service_pb2 import PublishStreamRequest, PublishStreamResponse
from tests.integration.client import an_event, failing
from tests.integration.credentials import EVERYTHING, SECRET, token
from tests.integration.hubs import MEMORY, connect, running


async def test_one_subject_has_its_rate_and_its_subscriptions_and_harms_no_other(
    tmp_path: Path,
) -> None:
    settings = {
        **MEMORY,
        "JWT_SECRET_KEY": SECRET,
        "SWITCHBOARD_MAX_EVENTS_PER_SECOND_PER_SUBJECT": "100",
        "SWITCHBOARD_MAX_SUBSCRIPTIONS_PER_SUBJECT": "2",
    }
    with running(tmp_path, settings) as hub:
        async with (
            connect(hub, token(*EVERYTHING, subject="alice")) as alice,
            connect(hub, token(*EVERYTHING, subject="bob")) as bob,
        ):
            await alice.publish_batch([an_event() for _ in range(300)])
            for call in (alice.publish(an_event()), alice.publish_batch([an_event()])):
                failure = await failing(call)
                assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert failure.reason == "RATE_LIMITED"
                assert failure.metadata["limit"] == "100"
                assert 0 < int(failure.metadata["retry_after_ms"]) <= 2000
            assert (await bob.publish(an_event())).sequence == 301
            # The stream is not refused: it waits until what was taken has been paid for.
            began = time.monotonic()
            stream = alice.publish_stream()
            await stream.write(PublishStreamRequest(request_id=1, events=[an_event()]))
            response = await stream.read()
            assert isinstance(response, PublishStreamResponse)
            assert [each.request_id for each in response.acks] == [1]
            assert time.monotonic() - began > 0.5
            await stream.done_writing()

            async with alice.subscribe(), alice.subscribe(group="crew"):
                for refused in (alice.subscribe(), alice.subscribe(group="crew")):
                    failure = await failing(refused.next())
                    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                    assert failure.reason == "LIMIT_REACHED"
                    assert failure.metadata["limit"] == "2"
                async with bob.subscribe():
                    pass
