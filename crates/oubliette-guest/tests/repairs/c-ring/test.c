#include <stdio.h>

#include "ring.h"

#define CHECK(is_so)                                          \
    do {                                                      \
        if (!(is_so)) {                                       \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #is_so); \
            return 1;                                         \
        }                                                     \
    } while (0)

int main(void)
{
    struct {
        struct ring ring;
        int guard[64];
    } room = {0};
    int item;

    for (int number = 0; number < RING_SIZE; number++)
        CHECK(ring_push(&room.ring, number));
    CHECK(!ring_push(&room.ring, 9));
    for (int round = 0; round < 10; round++) {
        CHECK(ring_pop(&room.ring, &item) && item == round);
        CHECK(ring_push(&room.ring, round + RING_SIZE));
    }
    for (int place = 0; place < 64; place++)
        CHECK(room.guard[place] == 0);
    printf("all is well\n");
    return 0;
}
