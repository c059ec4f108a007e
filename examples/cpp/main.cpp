// Runs a saved network: haste_run FOLDER INPUTS OUTPUTS [SIGNATURE]
//
// FOLDER is the unzipped artifact. INPUTS holds the input tensors' values, one tensor after another, as NumPy's
// tofile() writes them; OUTPUTS gets the outputs' the same way. Prints the outputs' shapes and the time of a call.

#include <chrono>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>

#include "network.h"

int main(int argc, char** argv) try {
  if (argc < 4) {
    std::cerr << "usage: haste_run FOLDER INPUTS OUTPUTS [SIGNATURE]\n";
    return 2;
  }
  haste::Network network(argv[1], argc > 4 ? std::atoi(argv[4]) : 0);

  std::ifstream given(argv[2], std::ios::binary);
  for (haste::ffi::Tensor& input : network.inputs) {
    given.read(static_cast<char*>(input.data_ptr()), haste::Bytes(input));
  }
  if (!given || given.peek() != std::ifstream::traits_type::eof()) {
    std::cerr << argv[2] << " doesn't hold the network's inputs\n";
    return 1;
  }

  network();  // the first call reserves memory
  const auto start = std::chrono::steady_clock::now();
  const haste::Tensors outputs = network();
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;

  std::ofstream made(argv[3], std::ios::binary);
  for (const haste::ffi::Tensor& output : outputs) {
    made.write(static_cast<const char*>(output.data_ptr()), haste::Bytes(output));
    std::cout << output.shape() << "\n";
  }
  std::cout << time.count() << " ms\n";
  return made.flush() ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
