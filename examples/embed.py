"""The server inside another Trio program, which goes on with its own work and is a client too.

The program here is a shop. Its agent answers from the shop's own state, so nothing has to be
copied; customers come over TCP, and the shop itself asks over loopback, which is pure memory.
"""

import trio

import trialogue
from trialogue import Turn


class Shop:
    """The program's own business: something that changes all the time."""

    def __init__(self) -> None:
        self.loaves = 0

    async def bake(self) -> None:
        """Bake a loaf every now and then."""
        while True:
            await trio.sleep(0.05)
            self.loaves += 1

    async def clerk(self, turn: Turn) -> None:
        """Answers customers."""
        if "how many" in turn.input.content.lower():
            await turn.write(f"We have {self.loaves} loaves")
        else:
            await turn.write("Good morning")
        await turn.write(", and more in the oven.")


async def main() -> None:
    """Open the shop, let a customer in, ask the clerk ourselves, and close in good order."""
    shop = Shop()
    transports = ["tcp://127.0.0.1:0", "loopback://"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shop.bake)
        async with trialogue.open_server(shop.clerk, transports=transports) as server:
            street, inside = server.endpoints
            async with trialogue.connect(street) as customer, trialogue.connect(inside) as owner:
                session = await customer.create_session(name="a customer")
                await trio.sleep(0.5)
                for text in ("Hello!", "How many loaves do you have?"):
                    turn = await customer.send_message(session.id, text)
                    assert turn.message is not None
                    print(f"> {text}\n{turn.message.content}")
                # The same session, seen from inside the program.
                overheard = await owner.list_messages(session.id)
                print(f"The owner has overheard {len(overheard.messages)} messages.")
        # Here every turn has ended, everything is written, and every connection is closed.
        print("closed; the bread is still being baked:", shop.loaves, "loaves")
        nursery.cancel_scope.cancel(reason="the day is over")


if __name__ == "__main__":
    trio.run(main)
