// gcca/codejam/2012/qualification_round/recycled_numbers
#include <iostream>
#include <set>

int main() {
    int tests;
    std::cin >> tests;
    for (int test = 1; test <= tests; ++test) {
        int low, high;
        std::cin >> low >> high;
        int digits = 1, power = 1;
        while (power * 10 <= low) power *= 10, ++digits;
        long long pairs = 0;
        for (int n = low; n <= high; ++n) {
            int seen[8], count = 0, m = n;
            for (int i = 1; i < digits; ++i) {
                m = m / 10 + m % 10 * power;
                bool is_new = m > n && m <= high;
                for (int j = 0; j < count; ++j) is_new = is_new && seen[j] != m;
                if (is_new) seen[count++] = m;
            }
            pairs += count;
        }
        std::cout << "Case #" << test << ": " << pairs << std::endl;
    }
}
