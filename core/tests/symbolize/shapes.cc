// Compiled by the tests of the symbolizer, in many ways. The numbers of lines matter to nobody: the tests look for the
// markers at their ends.
#include <cstddef>

namespace shapes {

static inline __attribute__((always_inline)) unsigned mix(unsigned value) {
    value ^= value << 13;
    value ^= value >> 17;
    return value * 2654435761u; // mix
}

template <typename T> struct Square {
    T side;
    inline __attribute__((always_inline)) T area(T salt) const {
        volatile T wide = side * side;
        return wide + static_cast<T>(mix(static_cast<unsigned>(wide + salt))); // area
    }
};

} // namespace shapes

static __attribute__((noinline)) int hidden(int value) {
    volatile int held = value;
    return held * 3 + 1; // hidden
}

extern "C" __attribute__((noinline)) int shapes_total(const int *sides, size_t count) {
    int total = 0;
    for (size_t at = 0; at < count; at++) {
        shapes::Square<int> square = {sides[at]};
        total += square.area(static_cast<int>(at)); // total
        total += hidden(total);
    }
    return total;
}

namespace shapes {
__attribute__((noinline)) int named(Square<long> square, int twice) {
    return static_cast<int>(square.area(7)) * twice; // named
}
} // namespace shapes

extern "C" int shapes_named(int twice) { return shapes::named(shapes::Square<long>{twice}, twice) + 1; }
