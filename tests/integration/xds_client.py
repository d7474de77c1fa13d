"""A stock gRPC client that dials xds:///: prints who answers. Run as a program by the tests.

Reads from standard input how many calls to make of which method, and prints a JSON object for each.
"""

import asyncio
import json
import sys
from collections import Counter

import grpc


async def main(service: str) -> None:
    async with grpc.aio.insecure_channel(f"xds:///{service}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Who/Am")
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            answers: Counter[str] = Counter()
            for _ in range(int(line)):
                try:
                    answers[(await call(b"", timeout=5)).decode()] += 1
                except grpc.aio.AioRpcError as error:
                    answers[error.code().name] += 1
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
